"""The keys of a training of the bundled network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from adbench.config.typed import Count, Rate, Seed, Share, Within, from_mapping
from adbench.errors import UserError

_MOST_PIXELS = 1 << 26  # a step; the recipe has 147 thousand


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the weights depend on, machine and threads apart.

    Attributes:
        objective: ``distill`` imitates the teacher's stages; ``formula`` classifies fractals made
            from formulas, ``dense`` tells positions of generated pictures apart: these need neither
            teacher nor photographs.
        teacher: weights of a ResNet-18 under timm's or torchvision's names, to layer3.
        start: weights file of the bundled network to begin with (formula, then distill).
        steps: optimiser steps of the whole training.
        minutes: length in minutes instead of steps; equal seeds then no longer repeat.
        local: share of the training in which each block learns on the teacher's input to it.
        batch_size, side: crops a step; side of a crop in pixels.
        photographs: share of crops from photographs, 0..1.
        folders: folders of further photographs.
        canvases: generated pictures kept in memory (307 kB each), from which crops are drawn.
        classes: fractal classes of ``formula`` (614 kB each).
        lr, lr_joint: peak learning rates of the local phase (or of ``formula`` and ``dense``) and
            of the joint one.
        ema: decay of the averaged weights, which are what is stored.
    """

    objective: Literal["distill", "formula", "dense"] = "distill"
    teacher: str | None = None
    start: str | None = None
    steps: Count = 20000
    minutes: Annotated[float, Within(0, 1e6, above=True)] | None = None
    local: Share = 0.45
    batch_size: Annotated[int, Within(1, 4096)] = 16
    side: Annotated[int, Within(32, 1024)] = 96
    photographs: Share = 0.5
    folders: tuple[str, ...] = ()
    canvases: Annotated[int, Within(1, 20_000)] = 1500
    classes: Annotated[int, Within(1, 10_000)] = 200
    lr: Rate = 4e-3
    lr_joint: Rate = 1e-3
    ema: Share = 0.998
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.objective == "distill" and not self.teacher:
            raise UserError(
                "teacher= is missing: a file of ResNet-18 weights, or objective=dense or formula"
            )
        if self.side % 16:
            raise UserError(f"side={self.side}: a multiple of 16 is expected")
        if self.batch_size * self.side**2 > _MOST_PIXELS:
            raise UserError(
                f"batch_size={self.batch_size} crops of side={self.side} are "
                f"{self.batch_size * self.side**2 / 1e6:.0f} megapixels a step; at most "
                f"{_MOST_PIXELS / 1e6:.0f} are possible"
            )

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done, 0..1, by time where that is given."""
        return min(1.0, step / self.steps if self.minutes is None else seconds / 60 / self.minutes)


@dataclass(frozen=True, slots=True)
class DistillKeys:
    """What `adbench distill` needs beside the recipe.

    Attributes:
        folder: where checkpoint, log and weights are written.
        device: ``auto`` takes a GPU where there is one.
        bfloat16: convolutions in bfloat16; None on a GPU only.
        threads: of torch.
    """

    folder: str = "outputs/distill"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    bfloat16: bool | None = None
    threads: Annotated[int, Within(1, 1024)] = 2

    def __post_init__(self) -> None:
        if not self.folder:
            raise UserError("folder= is empty: a folder is expected")


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of plain keys.

    Raises:
        UserError: an unknown key, or a value of another type or out of range.
    """
    return from_mapping(Recipe, values, "")
