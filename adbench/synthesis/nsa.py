"""Natural synthetic anomalies: patches of other normal images, Poisson-blended in (OpenCV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from adbench.config.typed import from_mapping
from adbench.data.batch import pictures
from adbench.synthesis.base import Synthetic
from adbench.synthesis.blending import ForegroundSynthesizer
from adbench.synthesis.settings import NsaKeys, PatchKeys
from adbench.synthesis.textures import TrainingTextures

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_MODES = {"normal": cv2.NORMAL_CLONE, "mixed": cv2.MIXED_CLONE}
_SMALLEST = 5  # pixels a side: less has no inside for Poisson's equation


_TEXTURE = PatchKeys(patches=4, scale=(0.5, 2.0))
_BRIGHT, _BLACK = (200.0, 60.0), (20.0, 20.0)
CATEGORIES: Mapping[str, PatchKeys] = {
    **dict.fromkeys(("carpet", "grid", "leather", "tile", "wood"), _TEXTURE),
    "bottle": PatchKeys(background=_BRIGHT),
    "cable": PatchKeys(height=(0.05, 0.4), width=(0.05, 0.4)),
    "capsule": PatchKeys(height=(0.03, 0.15), background=_BRIGHT),
    "hazelnut": PatchKeys(height=(0.03, 0.35), width=(0.03, 0.35), background=_BLACK),
    "metal_nut": PatchKeys(background=_BLACK, min_object=0.5),
    "pill": PatchKeys(height=(0.03, 0.2), background=_BLACK),
    "screw": PatchKeys(
        height=(0.03, 0.12), width=(0.03, 0.12), patches=4, background=_BRIGHT, min_object=0.5
    ),
    "toothbrush": PatchKeys(width=(0.03, 0.2), background=_BLACK, min_object=0.25),
    "zipper": PatchKeys(width=(0.03, 0.2), patches=4, background=_BRIGHT),
}


def object_mask(image: Picture, background: tuple[float, float] | None) -> Mask:
    """Return where [H, W, 3] uint8 differs from the background's gray level, [H, W] bool."""
    if background is None:
        return np.ones(image.shape[:2], dtype=bool)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.asarray(np.abs(gray - background[0]) > background[1])


def changed_pixels(before: Picture, after: Picture) -> Mask:
    """Return where the channels' mean difference exceeds one level, after a median of 5 x 5."""
    difference = np.abs(before.astype(np.float32) - after.astype(np.float32)).mean(-1)
    return np.asarray(cv2.medianBlur((difference > 1).astype(np.uint8), 5)) > 0


def blended_patches(
    image: Picture,
    source: Picture,
    objects: tuple[Mask, Mask],
    keys: PatchKeys,
    mode: str,
    rng: np.random.Generator,
) -> Picture:
    """Return the image with one to ``keys.patches`` patches of ``source``.

    Args:
        image, source: [H, W, 3] uint8.
        objects: where the object lies in image and source, [H, W] bool.
        mode: ``normal`` or ``mixed`` gradients.
    """
    result = image
    for number in range(keys.patches):
        if number == 0 or rng.random() < 0.5:
            result = _with_patch(result, source, objects, keys, mode, rng)
    return result


def _with_patch(
    image: Picture,
    source: Picture,
    objects: tuple[Mask, Mask],
    keys: PatchKeys,
    mode: str,
    rng: np.random.Generator,
    tries: int = 20,
) -> Picture:
    for _ in range(tries):
        patch, inside = _cut_patch(source, objects[1], keys, rng)
        if inside.mean() < keys.min_object:
            continue
        place = _place(patch.shape[:2], image.shape[:2], rng)
        if place is None:
            continue
        top, left = place
        below = objects[0][top : top + patch.shape[0], left : left + patch.shape[1]]
        if (inside & below).sum() < keys.min_overlap * max(int(inside.sum()), 1):
            continue
        cloned = _cloned(image, patch, inside | below, place, mode)
        if cloned is not None:
            return cloned
    return image


def _cut_patch(
    source: Picture, inside: Mask, keys: PatchKeys, rng: np.random.Generator
) -> tuple[Picture, Mask]:
    sides = []
    for length, bounds in zip(source.shape[:2], (keys.height, keys.width), strict=True):
        half = float(np.clip(0.03 + rng.gamma(2, 0.05), *bounds))
        sides.append(int(np.clip(round(2 * half * length), _SMALLEST, length)))
    top, left = (
        int(rng.integers(0, n - s + 1)) for n, s in zip(source.shape[:2], sides, strict=True)
    )
    window = np.s_[top : top + sides[0], left : left + sides[1]]
    factor = float(np.clip(rng.normal(1, 0.5), *keys.scale))
    shape = (max(round(factor * sides[1]), _SMALLEST), max(round(factor * sides[0]), _SMALLEST))
    patch = np.asarray(cv2.resize(source[window], shape), dtype=np.uint8)
    mask = cv2.resize(inside[window].astype(np.uint8), shape, interpolation=cv2.INTER_NEAREST)
    return patch, np.asarray(mask) > 0


def _place(
    patch: Sequence[int], image: Sequence[int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return row and column of the corner, one pixel off the border; None where it cannot fit."""
    room = [n - p - 2 for n, p in zip(image, patch, strict=True)]
    if min(room) < 0:
        return None
    return int(rng.integers(1, room[0] + 2)), int(rng.integers(1, room[1] + 2))


def _cloned(
    image: Picture, patch: Picture, region: Mask, place: tuple[int, int], mode: str
) -> Picture | None:
    """Return the Poisson blend; OpenCV centres the bounding box of the region, not the patch."""
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        return None
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = region[box].shape
    if min(height, width) < _SMALLEST:
        return None
    centre = (place[1] + int(columns[0]) + width // 2, place[0] + int(rows[0]) + height // 2)
    piece = np.ascontiguousarray(patch[box])
    mask = np.ascontiguousarray(region[box].astype(np.uint8) * 255)
    return np.asarray(cv2.seamlessClone(piece, image, mask, centre, _MODES[mode]), np.uint8)


class Nsa(ForegroundSynthesizer):
    """Patches of another normal image, resized and blended so that no seam shows.

    Works image by image on the CPU. The mask is what changed visibly; what changed by less than
    a level is put back. Sources are training images; without any, others of the batch.

    Args:
        keys: those of NsaKeys; where a foreground is given, it is the object.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(NsaKeys, keys, "synthesis")
        super().__init__(made)
        self.mode, self.by_category, self.tries = made.mode, made.by_category, made.tries
        self.patch = PatchKeys(
            **{item.name: getattr(made, item.name) for item in fields(PatchKeys)}
        )
        self.training: TrainingTextures | None = None

    @property
    def record(self) -> dict[str, Any]:
        return {"textures": "training"}

    def prepare(self, datamodule: DataModule) -> None:
        super().prepare(datamodule)
        self.training = TrainingTextures()
        self.training.prepare(datamodule)
        categories = {sample.category for sample in datamodule.train_samples}
        if self.by_category and len(categories) == 1:
            self.patch = CATEGORIES.get(categories.pop(), self.patch)

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        count, size = len(image), (image.shape[-2], image.shape[-1])
        wanted = self.applied(count, generator).tolist()
        if source is None and self.training is not None:
            source = self.training.draw(count, size, generator)
        elif source is None:
            source = image.roll(1, 0)
        seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
        made, masks = image.clone(), torch.zeros_like(image[:, :1], dtype=torch.bool)
        allowed = None if foreground is None else foreground[:, 0].cpu().numpy()
        originals, sources = pictures(image), pictures(source)
        for row in [row for row in range(count) if wanted[row]]:
            inside = None if allowed is None else allowed[row]
            rng = np.random.default_rng(int(seeds[row]))
            pair = self._damaged(originals[row], sources[row], inside, rng)
            after, mask = (torch.from_numpy(array).to(image.device) for array in pair)
            masks[row, 0] = mask
            made[row] = torch.where(mask, after.permute(2, 0, 1).to(image) / 255, image[row])
        strength = torch.ones(count, device=image.device)
        return Synthetic(made, masks, strength, masks.flatten(1).any(1))

    def _damaged(
        self, image: Picture, source: Picture, inside: Mask | None, rng: np.random.Generator
    ) -> tuple[Picture, Mask]:
        keys = self.patch
        target = object_mask(image, keys.background) if inside is None else inside
        objects = (target, object_mask(source, keys.background))
        mask = np.zeros(image.shape[:2], dtype=bool)
        after = image
        for _ in range(self.tries):
            after = blended_patches(image, source, objects, keys, self.mode, rng)
            mask = changed_pixels(image, after)
            if inside is not None:
                mask &= inside
            if mask.any():
                break
        return after, mask
