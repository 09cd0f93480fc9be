"""The keys of a training of the bundled network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from adbench.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the weights depend on, machine and threads apart.

    Attributes:
        objective: ``distill`` imitates the teacher's stages; ``formula`` classifies fractals made
            from formulas, which needs neither teacher nor photographs.
        teacher: weights of a ResNet-18 under timm's or torchvision's names, to layer3.
        start: weights file of the bundled network to begin with (formula, then distill).
        steps: optimiser steps of the whole training.
        minutes: length in minutes instead of steps; equal seeds then no longer repeat.
        local: share of the training in which each block learns on the teacher's input to it.
        batch_size, side: crops a step; side of a crop in pixels.
        photographs: share of crops from photographs, 0..1.
        folders: folders of further photographs.
        canvases: generated pictures kept in memory, from which crops are drawn.
        classes: fractal classes of ``formula``.
        lr, lr_joint: peak learning rates of the local phase (or ``formula``) and of the joint one.
        ema: decay of the averaged weights, which are what is stored.
    """

    objective: Literal["distill", "formula"] = "distill"
    teacher: str | None = None
    start: str | None = None
    steps: int = 20000
    minutes: float | None = None
    local: float = 0.45
    batch_size: int = 16
    side: int = 96
    photographs: float = 0.5
    folders: tuple[str, ...] = ()
    canvases: int = 1500
    classes: int = 200
    lr: float = 4e-3
    lr_joint: float = 1e-3
    ema: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in ("distill", "formula"):
            near = nearest(str(self.objective), ("distill", "formula"))
            raise UserError(f"objective={self.objective}: distill or formula is expected{near}")
        if self.objective == "distill" and not self.teacher:
            raise UserError(
                "teacher= is missing: a file of ResNet-18 weights, or objective=formula"
            )
        for name in ("steps", "batch_size", "canvases", "classes", "lr", "lr_joint"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)}: a positive number is expected")
        if self.side < 32 or self.side % 16:
            raise UserError(f"side={self.side}: a multiple of 16 from 32 on is expected")
        for name in ("local", "photographs", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name)}: a share in 0..1 is expected")

    def progress(self, step: int, seconds: float) -> float:
        """Return the share of the training that is done, 0..1, by time where that is given."""
        return min(1.0, step / self.steps if self.minutes is None else seconds / 60 / self.minutes)


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Return the recipe of plain keys.

    Raises:
        UserError: an unknown key or a value out of range.
    """
    known = [field.name for field in fields(Recipe)]
    for key in values:
        if key not in known:
            raise UserError(f"no key '{key}' in the recipe{nearest(key, known)}")
    converted = dict(values)
    if "folders" in converted:
        converted["folders"] = tuple(converted["folders"] or ())
    try:
        return Recipe(**converted)
    except TypeError as error:
        raise UserError(f"a value of the recipe has a wrong type: {error}") from error
