"""Where defects may lie: the object's foreground, computed, from files, or everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adbench.data.batch import pictures
from adbench.data.images import read_image
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.synthesis.foreground_presets import RULES, preset_foreground
from adbench.synthesis.settings import ForegroundKeys

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_SHARES = (0.05, 0.9)
# Otsu's share of the variance that lies between both sides: 2/pi for one normal distribution, 3/4
# for a uniform one. No more than that is no object before a background.
_SEPARATION = 0.75


def otsu_foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the object of an image [H, W, 3] uint8 as [H, W] bool.

    Otsu's threshold on the blurred grey picture; the side that touches the border less is the
    object; gaps are closed and holes filled. Everything is foreground where that side covers
    less than 5 % or more than 90 % of the picture (an object that fills it), or where the sides
    differ no more than the halves of a uniform distribution do (a texture).
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    if separation(grey, bright > 0) <= _SEPARATION:
        return np.ones(grey.shape, dtype=bool)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    side = bright if border.mean() <= 0.5 else 1 - bright
    width = max(min(image.shape[:2]) // 32, 3) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    closed = cv2.morphologyEx(side, cv2.MORPH_CLOSE, kernel)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(closed), contours, -1, 1, cv2.FILLED) > 0
    if not _SHARES[0] <= filled.mean() <= _SHARES[1]:
        return np.ones(filled.shape, dtype=bool)
    return np.asarray(filled)


def separation(values: NDArray[Any], bright: NDArray[np.bool_]) -> float:
    """Return the share (0..1) of the variance of ``values`` that lies between both sides."""
    total = float(values.var())
    share = float(bright.mean())
    if total == 0 or not 0 < share < 1:
        return 0.0
    apart = float(values[bright].mean()) - float(values[~bright].mean())
    return share * (1 - share) * apart * apart / total


class ForegroundBank:
    """Foregrounds of a run's normal images, training and held-out.

    Args:
        keys: how they are found.
    """

    def __init__(self, keys: ForegroundKeys) -> None:
        self.method, self.root, self.preset = keys.method, keys.root, keys.preset
        self.everywhere = frozenset(keys.everywhere)
        self._masks: dict[str, Tensor] = {}

    def prepare(self, datamodule: DataModule) -> None:
        """Compute or read the masks of all training and held-out images."""
        if self.method == "none":
            return
        splits = {
            "train": (datamodule.train_samples, datamodule.train_batches()),
            "val": (datamodule.val_samples, datamodule.val_batches()),
        }
        for split, (samples, batches) in splits.items():
            found = [
                self._of(samples[index], picture)
                for batch in batches
                for index, picture in zip(batch.index.tolist(), pictures(batch.image), strict=True)
            ]
            if found:
                self._masks[split] = torch.from_numpy(np.stack(found))[:, None]

    def _of(self, sample: Sample, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        if self.method == "files":
            return self._read(sample, picture.shape[:2])
        if self.method == "preset" or (self.method == "rules" and self._ruled(sample.category)):
            return preset_foreground(picture, str(self.preset), sample.category)
        if sample.category in self.everywhere:
            return np.ones(picture.shape[:2], dtype=bool)
        return otsu_foreground(picture)

    def _ruled(self, category: str) -> bool:
        return category in RULES.get(str(self.preset), {})

    def _read(self, sample: Sample, size: tuple[int, ...]) -> NDArray[np.bool_]:
        path = Path(str(self.root)).expanduser() / sample.category / f"{sample.image.stem}.png"
        if not path.is_file():
            raise UserError(f"{path}: no foreground mask for {sample.relative}")
        grey = read_image(path).max(-1)
        resized = cv2.resize(grey, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized) > 0

    def masks(self, index: Tensor, split: str = "train") -> Tensor | None:
        """Return [B, 1, H, W] bool on ``index``'s device; None allows everywhere."""
        if split not in self._masks:
            return None
        return self._masks[split][index.cpu()].to(index.device)
