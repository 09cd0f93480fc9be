"""The recipe behind ``backbone=bundled``: ``adbench distill key=value``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["distill"]


def distill(
    config: Mapping[str, Any],
    folder: str | Path,
    *,
    device: str = "cpu",
    bfloat16: bool | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Train the bundled network and return its weights file; the same call resumes.

    Args:
        config: keys of ``Recipe``.
        folder: where checkpoint and weights lie.
        device: ``cpu`` or ``cuda``.
        bfloat16: convolutions in bfloat16; None means on a GPU only.

    Raises:
        UserError: a key, file or folder that does not fit, or another process writes the folder.
    """
    from adbench.backbones.distill.dense import DenseDiscrimination
    from adbench.backbones.distill.distillation import Distillation
    from adbench.backbones.distill.formula import FormulaPretraining
    from adbench.backbones.distill.recipe import recipe_from
    from adbench.backbones.distill.training import Training, check_claim
    from adbench.runs.alone import written_alone

    recipe = recipe_from(config)
    target = Path(folder).expanduser()
    kinds: dict[str, type[Training]] = {
        "distill": Distillation,
        "formula": FormulaPretraining,
        "dense": DenseDiscrimination,
    }
    check_claim(target)
    with written_alone(target, "folder"):
        return kinds[recipe.objective](recipe, target, device=device, bfloat16=bfloat16).run(say)
