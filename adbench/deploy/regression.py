"""Two benchmark files, one beside the other; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adbench.errors import UserError


def compared(new: Mapping[str, Any], old: Mapping[str, Any], tolerance: float) -> list[list[str]]:
    """Return rows (what, before, now, ratio, verdict) of two documents.

    Raises:
        UserError: they measured other things: size, threads, device, or nothing in common.
    """
    for key in ("size", "threads", "device", "dtype"):
        if new.get(key) != old.get(key):
            raise UserError(f"not comparable: {key}={old.get(key)} before, {new.get(key)} now")
    rows = []
    for what, before in _rates(old).items():
        now = _rates(new).get(what)
        if now is None or not before > 0:
            continue
        ratio = now / before
        verdict = "slower" if ratio < 1 - tolerance else "faster" if ratio > 1 + tolerance else ""
        rows.append([what, f"{before:.2f}", f"{now:.2f}", f"{ratio:.2f}", verdict])
    if not rows:
        raise UserError("the two files have no measurement in common")
    return rows


def _rates(document: Mapping[str, Any]) -> dict[str, float]:
    try:
        found = {
            f"{kind}, batch {batch}": float(entry["images_per_second"])
            for batch, entries in document["network"].items()
            for kind, entry in entries.items()
        }
        for kind, entry in document["end_to_end"].items():
            found[f"{kind}, end to end"] = float(entry["images_per_second"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"a benchmark file is damaged ({error})") from error
    return found
