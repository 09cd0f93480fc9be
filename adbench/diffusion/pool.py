"""A pool of drawn images on disk, with strength and seed of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from adbench.diffusion.model import SdasModel
from adbench.diffusion.settings import PoolKeys
from adbench.errors import UserError
from adbench.runs.files import read_record, write_json, write_text
from adbench.runs.pictures import grid, write_png

__all__ = ["PoolKeys", "make_pool", "planned_images"]
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class PoolImage:
    """One line of the manifest."""

    file: str
    category: str
    strength: float
    seed: int


def planned_images(keys: PoolKeys, categories: Sequence[str], seed: int) -> list[PoolImage]:
    """Return file, s and seed of every image of the pool.

    Both follow from ``seed``, category and position: pools of two strengths share their noise,
    and a larger pool begins with the smaller one.
    """
    low, high = keys.bounds
    planned = []
    for category in categories:
        key = int.from_bytes(hashlib.sha256(category.encode()).digest()[:8], "big")
        seeds = np.random.default_rng([seed, key, 0]).integers(0, 2**53, keys.n)
        strengths = np.random.default_rng([seed, key, 1]).uniform(low, high, keys.n).round(6)
        planned += [
            PoolImage(f"{category}/{i:05d}.png", category, float(strengths[i]), int(seeds[i]))
            for i in range(keys.n)
        ]
    return planned


def make_pool(
    model: SdasModel,
    folder: Path,
    keys: PoolKeys,
    *,
    seed: int,
    categories: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Draw a pool into ``folder``; return the manifest's path.

    Writes ``CATEGORY/00000.png`` ... (lossless), ``manifest.jsonl`` (file, category, strength,
    seed of each image and how it was drawn), ``pool.json`` (the request) and ``contact.png``.
    Images that lie there from an interrupted call with the same request are kept.

    Args:
        model: in eval mode, on the device to draw on.
        categories: of the model's; None draws all.
        size: (height, width) of the files; None keeps the model's.

    Raises:
        UserError: an unknown category, or ``folder`` holds another pool.
    """
    chosen = list(categories or model.classes)
    model.labels(chosen)
    request = {**asdict(keys), "seed": seed, "categories": chosen, "size": size}
    request["model"] = _fingerprint(model)
    _claim(folder, request)
    planned = planned_images(keys, chosen, seed)
    missing = [image for image in planned if not (folder / image.file).is_file()]
    for start in range(0, len(missing), keys.batch_size):
        some = missing[start : start + keys.batch_size]
        for image, pixels in zip(some, _drawn(model, keys, some, size), strict=True):
            write_png(folder / image.file, pixels)
        say(f"pool: {len(planned) - len(missing) + start + len(some)} of {len(planned)} images")
    how = {k: request[k] for k in ("form", "variance", "steps", "guidance_scale")}
    lines = [json.dumps({**asdict(image), **how}) for image in planned]
    write_png(folder / "contact.png", _contact(folder, planned))
    write_text(folder / MANIFEST, "\n".join(lines) + "\n")
    return folder / MANIFEST


def _fingerprint(model: SdasModel) -> str:
    """Return a number that tells one training of a network from another."""
    total = sum(p.detach().double().abs().sum().item() for p in model.parameters())
    return f"{total:.6e}"


def _claim(folder: Path, request: dict[str, Any]) -> None:
    card = folder / "pool.json"
    wanted = json.loads(json.dumps(request))
    ignored = "batch_size"
    if card.is_file():
        try:
            found = {**read_record(card), ignored: 0}
        except UserError as error:
            raise UserError(f"{card} cannot be read: choose another folder") from error
        if found != {**wanted, ignored: 0}:
            raise UserError(f"{folder} holds a pool of another request: choose another folder")
    elif folder.is_dir() and any(item.name != ".lock" for item in folder.iterdir()):
        raise UserError(f"{folder} is not empty and no pool: choose another folder")
    write_json(card, wanted)


def _drawn(
    model: SdasModel, keys: PoolKeys, images: Sequence[PoolImage], size: tuple[int, int] | None
) -> list[np.ndarray]:
    strength = torch.tensor([image.strength for image in images])
    generators = [torch.Generator().manual_seed(image.seed) for image in images]
    drawn = model.images(
        [image.category for image in images],
        strength,
        generators,
        steps=keys.steps,
        form=keys.form,
        variance=keys.variance,
        guidance_scale=keys.guidance_scale,
    )
    if not drawn.isfinite().all():
        raise UserError(
            "the SDAS model draws pictures that are not finite: its training diverged (lower the "
            "learning rate), or synthesis.guidance_scale is too large"
        )
    return [_pixels(image, size) for image in drawn.cpu()]


def _pixels(image: Tensor, size: tuple[int, int] | None) -> np.ndarray:
    """Return uint8 [H, W, 3] of a float image [3, H, W] in 0..1."""
    array = image.permute(1, 2, 0).numpy()
    if size is not None and array.shape[:2] != tuple(size):
        array = cv2.resize(array, (size[1], size[0]), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    return np.rint(array * 255).astype(np.uint8)


def _read_png(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path))
    if pixels is None:
        raise UserError(f"{path} cannot be read: delete it to have it drawn again")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _contact(folder: Path, planned: Sequence[PoolImage], columns: int = 8) -> np.ndarray:
    """Return up to 32 images in a grid, by growing s."""
    spread = np.linspace(0, len(planned) - 1, min(len(planned), 32)).round().astype(int)
    shown = sorted((planned[i] for i in spread), key=lambda image: image.strength)
    return grid([_read_png(folder / image.file) for image in shown], columns)
