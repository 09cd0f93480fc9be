"""Where defects may lie: the object's foreground, computed, from files, or everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adbench.data.images import read_image
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

METHODS = ("otsu", "files", "none")
_SHARES = (0.05, 0.9)


def otsu_foreground(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the object of an image [H, W, 3] uint8 as [H, W] bool.

    Otsu's threshold on the blurred grey picture; the side that touches the border less is the
    object; gaps are closed and holes filled. Everything is foreground where that side covers
    less than 5 % or more than 90 % of the picture: a texture, or an object that fills it.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 2)
    _, bright = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
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


class ForegroundBank:
    """Foregrounds of a run's training images.

    Args:
        method: ``otsu`` (computed per image), ``files`` (masks beside the data set) or ``none``.
        root: for ``files``: the folder that holds ``CATEGORY/STEM.png``.
    """

    def __init__(self, method: str = "otsu", root: str | None = None) -> None:
        if method not in METHODS:
            raise UserError(
                f"synthesis.foreground.method={method}: choose {', '.join(METHODS)}"
                f"{nearest(method, METHODS)}"
            )
        if method == "files" and root is None:
            raise UserError("synthesis.foreground.method=files needs synthesis.foreground.root")
        self.method, self.root = method, root
        self._masks: Tensor | None = None

    def prepare(self, datamodule: DataModule) -> None:
        """Compute or read the masks of all training images."""
        if self.method == "none":
            return
        found = []
        for batch in datamodule.train_batches():
            pixels = (batch.image * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
            for row, index in enumerate(batch.index.tolist()):
                sample = datamodule.train_samples[index]
                picture = np.ascontiguousarray(pixels[row])
                found.append(self._of(sample, picture))
        self._masks = torch.from_numpy(np.stack(found))[:, None]

    def _of(self, sample: Sample, picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
        if self.method == "otsu":
            return otsu_foreground(picture)
        path = Path(str(self.root)) / sample.category / f"{sample.image.stem}.png"
        if not path.is_file():
            raise UserError(f"{path}: no foreground mask for {sample.relative}")
        grey = read_image(path).max(-1)
        size = (picture.shape[1], picture.shape[0])
        resized: NDArray[np.uint8] = np.asarray(
            cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR)
        )
        return resized > 0

    def masks(self, index: Tensor) -> Tensor | None:
        """Return [B, 1, H, W] bool on ``index``'s device; None allows everywhere."""
        if self._masks is None:
            return None
        return self._masks[index.cpu()].to(index.device)
