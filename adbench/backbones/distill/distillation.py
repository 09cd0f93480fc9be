"""Imitates a teacher's stem and blocks, first each for itself, then as a chain.

In the local phase every block of the student gets the teacher's input to that block and learns
the teacher's output of it: small regressions that converge in a fraction of the images that
training through the whole depth needs. The joint phase chains the student's own blocks, so that
later ones make good what earlier ones miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adbench.backbones.distill.blocks import (
    chained_outputs,
    loaded_teacher,
    local_outputs,
    normalised,
    on_device,
    standardised_errors,
    teacher_outputs,
    unexplained_shares,
)
from adbench.backbones.distill.crops import CropSource
from adbench.backbones.distill.recipe import Recipe
from adbench.backbones.distill.training import Training, cosine
from adbench.backbones.files import regular_file

_MEASURED_BATCHES = 10
_MEASURED_FROM = 1 << 30  # steps beyond any training, for statistics
_HELD_OUT = 64


class Distillation(Training):
    """See the module and ``Training``."""

    def __init__(self, recipe: Recipe, folder: Path, **keys: Any) -> None:
        super().__init__(recipe, folder, **keys)
        weights = regular_file(str(recipe.teacher), "teacher")
        self.teacher = on_device(loaded_teacher(weights), self.device)
        self.variances: list[Tensor] = []

    def prepare(self) -> None:
        recipe = self.recipe
        self.source = CropSource(
            recipe.seed,
            recipe.side,
            photographs=recipe.photographs,
            canvases=recipe.canvases,
            folders=recipe.folders,
        )
        self.held_out = normalised(self.source.validation(_HELD_OUT).to(self.device))
        if not self.variances:
            self.variances = self._measured_variances()

    def batches(self, start: int, stop: int) -> Iterator[Tensor]:
        return self.source.batches(start, stop, self.recipe.batch_size)

    def losses(self, batch: Tensor) -> list[Tensor]:
        image = normalised(batch.to(self.device))
        targets = teacher_outputs(self.teacher, image)
        if self.progress() < self.recipe.local:
            outputs = local_outputs(self.student, image, targets)
        else:
            outputs = chained_outputs(self.student, image)
        return standardised_errors(outputs, targets, self.variances)

    def learning_rate(self, progress: float) -> float:
        """Return the rate at ``progress``: one cosine a phase."""
        recipe = self.recipe
        if progress < recipe.local:
            return cosine(progress / recipe.local, recipe.lr, floor=0.1)
        return cosine((progress - recipe.local) / max(1 - recipe.local, 1e-9), recipe.lr_joint)

    @torch.no_grad()
    def told(self) -> str:
        outputs = chained_outputs(self.averaged_network(), self.held_out)
        shares = unexplained_shares(outputs, teacher_outputs(self.teacher, self.held_out))
        return "unexplained " + " ".join(f"{share:.4f}" for share in shares)

    def _measured_variances(self) -> list[Tensor]:
        """Return the teacher's variance per block and channel, over ten batches."""
        means: list[Tensor] = []
        squares: list[Tensor] = []
        for number in range(_MEASURED_BATCHES):
            image = normalised(self.source.batch(_MEASURED_FROM + number, 32).to(self.device))
            outputs = [output.double() for output in teacher_outputs(self.teacher, image)]
            first = [output.mean((0, 2, 3)) for output in outputs]
            second = [output.square().mean((0, 2, 3)) for output in outputs]
            means = [a + b for a, b in zip(means, first, strict=True)] if means else first
            squares = [a + b for a, b in zip(squares, second, strict=True)] if squares else second
        count = _MEASURED_BATCHES
        variances = [q / count - (m / count) ** 2 for m, q in zip(means, squares, strict=True)]
        # A channel that hardly ever moves must not outweigh the others.
        return [v.clamp(min=float(v.median()) * 0.05).float() for v in variances]

    def extra_state(self) -> dict[str, Any]:
        return {"variances": self.variances}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        self.variances = state["variances"]
