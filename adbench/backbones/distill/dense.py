"""Tell positions of generated pictures apart; no photograph, no teacher, no classes.

Two windows of one picture overlap by whole cells, each in a light, noise and sharpness of its
own. What a cell of one shows must be told from all other cells of the batch by the cell of the
other window that shows the same: features that change with structure and keep still when the
light moves, which is what a nearest neighbour of patches asks of them.

Source: X. Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", CVPR
2021, the dense half of its Eq. 3 with known positions instead of matched ones and the batch in
place of a queue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from adbench.backbones.bundled_network import CHANNELS, STRIDES
from adbench.backbones.distill.blocks import normalised
from adbench.backbones.distill.crops import generated_canvases, made_ahead, stacked, warped
from adbench.backbones.distill.training import Training

_LEVELS = (1, 2)  # layer2 and layer3: what detectors read
_SHIFTS = 3  # 0, 1 or 2 cells of the coarsest level
_COLUMNS = 64
_TEMPERATURE = 0.1


class Windows(NamedTuple):
    """Two windows of each picture: [B, 3, side, side] in 0..1 each, ``shift`` [2] in pixels."""

    first: Tensor
    second: Tensor
    shift: tuple[int, int]


class DenseDiscrimination(Training):
    """Contrast of positions at two levels; see the module and ``Training``."""

    def built_head(self) -> nn.Module:
        return nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(CHANNELS[level], CHANNELS[level], 1),
                nn.ReLU(),
                nn.Conv2d(CHANNELS[level], _COLUMNS, 1),
            )
            for level in _LEVELS
        )

    def prepare(self) -> None:
        self.pictures = generated_canvases(self.recipe.seed, self.recipe.canvases)

    def batches(self, start: int, stop: int) -> Iterator[Windows]:
        return made_ahead(self.windows, start, stop)

    def windows(self, step: int) -> Windows:
        """Return the windows of step ``step``: half as many pairs as the batch has crops."""
        rng = np.random.default_rng([self.recipe.seed, step])
        side, coarsest = self.recipe.side, STRIDES[-1]
        most = min(_SHIFTS, side // coarsest)  # at least one cell is seen twice
        down, right = (int(n) * coarsest for n in rng.integers(most, size=2))
        first, second = [], []
        for _ in range(max(2, self.recipe.batch_size // 2)):
            picture = self.pictures[rng.integers(len(self.pictures))]
            whole = warped(rng, picture, side + (_SHIFTS - 1) * coarsest)
            first.append(_relit(rng, whole[:side, :side]))
            second.append(_relit(rng, whole[down : down + side, right : right + side]))
        return Windows(stacked(first), stacked(second), (down, right))

    def losses(self, batch: Windows) -> list[Tensor]:
        both = torch.cat([batch.first, batch.second]).to(self.device)
        maps = self.student(normalised(both))
        found = []
        for level, head in zip(_LEVELS, self.head.children(), strict=True):
            first, second = head(maps[level]).float().chunk(2)
            down, right = (pixels // STRIDES[level] for pixels in batch.shift)
            height, width = first.shape[2] - down, first.shape[3] - right
            seen = first[:, :, down:, right:], second[:, :, :height, :width]
            found.append(contrast(*seen))
        return found


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean cross-entropy of finding each cell of one map in the other, both ways.

    The eight neighbours of a cell show nearly the same and count neither for nor against.

    Args:
        first, second: [B, C, H, W]; equal places show the same.
    """
    number, _, height, width = first.shape
    a, b = (
        functional.normalize(m.permute(0, 2, 3, 1).reshape(number * height * width, -1), dim=1)
        for m in (first, second)
    )
    logits = (a @ b.T / _TEMPERATURE).masked_fill(_beside(number, height, width, a), -math.inf)
    own = torch.arange(len(logits), device=logits.device)
    ways = functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)
    return ways / 2


def _beside(number: int, height: int, width: int, like: Tensor) -> Tensor:
    """Return which pairs of cells [N, N] are neighbours in one picture."""
    picture, y, x = (
        axis.flatten()
        for axis in torch.meshgrid(
            torch.arange(number, device=like.device),
            torch.arange(height, device=like.device),
            torch.arange(width, device=like.device),
            indexing="ij",
        )
    )
    far = torch.maximum((y[:, None] - y).abs(), (x[:, None] - x).abs())
    return (picture[:, None] == picture) & (far == 1)


def _relit(rng: Generator, window: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the window in another light; its colours stay what they are, nearly."""
    values = window.astype(np.float32)
    middle = values.mean()
    values = (values - middle) * math.exp(rng.normal() * 0.2) + middle + rng.normal() * 15
    values *= 1 + rng.normal(size=3).astype(np.float32) * 0.04
    if rng.random() < 0.3:
        values = cv2.GaussianBlur(values, (0, 0), float(rng.uniform(0.4, 1.2)))
    values += rng.normal(size=values.shape).astype(np.float32) * rng.uniform(0, 8)
    return np.asarray(np.clip(values, 0, 255), dtype=np.uint8)
