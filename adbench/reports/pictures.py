"""Pictures of a run folder as data URIs: decoded and encoded anew, so that they are pictures."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import Any

from adbench.errors import UserError
from adbench.reports.facts import RunFacts
from adbench.runs.files import confined, read_record

_MOST_SIDE = 8192
_MOST_BYTES = 32 << 20


def encoded(path: Path, side: int, kind: str) -> tuple[str, int, int] | None:
    """Return a picture as data URI with its width and height; None where it is none.

    Args:
        side: pixels of the longer side, at most.
        kind: ``JPEG`` or ``PNG``.
    """
    from PIL import Image

    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as opened:
                if max(opened.size) > _MOST_SIDE:
                    return None
                picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Warning):
        return None
    picture.thumbnail((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    text = base64.b64encode(out.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{text}", *picture.size


def gallery(run: RunFacts, most: int) -> dict[str, Any] | None:
    """Return the pictures that a run keeps for reports, with the scale of their maps."""
    try:
        folder = confined(run.folder, "images", "gallery")
        card = read_record(folder / "gallery.json")
        low, high = float(card["low"]), float(card["high"])
        threshold = card["threshold"]
        level = None if threshold is None else float(threshold)
        entries = list(card["pictures"])[:most]
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return None
    found = [_picture(folder, number, entry) for number, entry in enumerate(entries)]
    kept = [each for each in found if each is not None]
    left_out = max(len(card["pictures"]) - len(kept), 0)
    return {"low": low, "high": high, "threshold": level, "pictures": kept, "left_out": left_out}


def _picture(folder: Path, number: int, entry: Any) -> dict[str, Any] | None:
    try:
        path, label = str(entry["path"]), int(entry["label"])
        score = float(entry["score"])
        image = encoded(confined(folder, f"{number:03d}.jpg"), 192, "JPEG")
        planes = encoded(confined(folder, f"{number:03d}.png"), 192, "PNG")
    except (UserError, KeyError, TypeError, ValueError):
        return None
    if image is None or planes is None or image[1:] != planes[1:]:
        return None
    return {
        "path": path,
        "label": label,
        "score": score,
        "image": image[0],
        "map": planes[0],
        "width": image[1],
        "height": image[2],
    }


_PANELS = 6  # pictures of one folder


def stage_pictures(run: RunFacts) -> list[dict[str, Any]]:
    """Return what stages and methods drew: reconstructions, pools, attention; by place."""
    places = [run.folder, *sorted(p for p in (run.folder / "stages").glob("*") if p.is_dir())]
    found = []
    for place in places:
        files = [*sorted(place.glob("*.png")), *sorted(place.glob("*.jpg"))]
        files += sorted(place.glob("*/*.png"))[:_PANELS] if place != run.folder else []
        for path in [each for each in files if each.name != "scores.png"][:_PANELS]:
            found += _stage_picture(run.folder, path)
    return found


def panels(run: RunFacts, most: int) -> list[dict[str, Any]]:
    """Return the heat maps of a run that keeps no gallery, as they were drawn."""
    files = sorted((run.folder / "images").glob("*.png"))[:most]
    return [each for path in files for each in _stage_picture(run.folder, path)]


def _stage_picture(folder: Path, path: Path) -> list[dict[str, Any]]:
    try:
        confined(folder, *path.relative_to(folder).parts)
    except UserError:
        return []
    made = encoded(path, 720, "JPEG")
    name = path.relative_to(folder).as_posix()
    return [] if made is None else [{"name": name, "image": made[0], "width": made[1]}]
