"""Formula-driven pre-training: classify fractals that formulas make; no photograph, no teacher.

Source: H. Kataoka et al., "Pre-training without Natural Images", ACCV 2020: a class is one iterated
function system, its members are that system with its coefficients slightly changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from adbench.backbones.bundled_network import CHANNELS
from adbench.backbones.distill.blocks import normalised
from adbench.backbones.distill.crops import augmented
from adbench.backbones.distill.generated import coloured_density, contractions
from adbench.backbones.distill.training import Training

_MEMBERS = 8  # pictures kept of a class; crops vary them further
_SIDE = 160
_JITTER = 0.05


class FormulaPretraining(Training):
    """Cross-entropy on the averaged last map; see ``Training``."""

    def built_head(self) -> nn.Module:
        return nn.Linear(CHANNELS[-1], self.recipe.classes)

    def prepare(self) -> None:
        recipe = self.recipe
        self.pictures = [
            [class_member(recipe.seed, number, member) for member in range(_MEMBERS)]
            for number in range(recipe.classes)
        ]

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(start, stop):
            rng = np.random.default_rng([self.recipe.seed, step])
            classes = rng.integers(self.recipe.classes, size=self.recipe.batch_size)
            members = rng.integers(_MEMBERS, size=self.recipe.batch_size)
            crops = [
                augmented(rng, self.pictures[c][m], self.recipe.side, (1.0, 1.6))
                for c, m in zip(classes, members, strict=True)
            ]
            images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
            yield images, torch.from_numpy(classes)

    def losses(self, batch: tuple[Tensor, Tensor]) -> list[Tensor]:
        images, classes = batch
        maps = self.student(normalised(images.to(self.device)))
        scores = self.head(maps[-1].mean((2, 3)))
        return [functional.cross_entropy(scores, classes.to(self.device))]


def class_member(seed: int, number: int, member: int) -> NDArray[np.uint8]:
    """Return member ``member`` of class ``number``: [160, 160, 3] uint8."""
    matrices, shifts = contractions(np.random.default_rng([seed, number]))
    rng = np.random.default_rng([seed, number, member])
    matrices = matrices * (1 + rng.normal(size=matrices.shape) * _JITTER)
    return coloured_density(rng, matrices, shifts, _SIDE)
