"""``adbench distill``: trains the network behind ``backbone=bundled``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from adbench.backbones.distill.recipe import DistillKeys, Recipe, recipe_from
from adbench.backbones.files import regular_file
from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.config.typed import from_mapping
from adbench.errors import UserError

HELP = """usage: adbench distill teacher=FILE [steps=20000 folders=[...] folder=outputs/distill]
       adbench distill objective=dense minutes=60 lr=1e-3   (or formula: no teacher, no photograph)

Trains adbench's own backbone from generated pictures and packaged photographs; the same command
resumes. The last line is the weights file: use it as backbone=bundled backbone.weights=FILE.
Every key is explained in conf/distill.yaml; benchmarks/backbones.py compares the result."""


def run(words: Sequence[str]) -> int:
    """Train; the last line on stdout is the weights file."""
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config

    config = compose_config(
        "distill", arguments.overrides, arguments.config_dir, (DistillKeys, Recipe)
    )
    names = {item.name for item in fields(DistillKeys)}
    rest = {key: value for key, value in config.items() if key not in names}
    own = from_mapping(DistillKeys, {k: v for k, v in config.items() if k in names}, "")
    recipe = recipe_from(rest)
    _check_files(recipe)
    import torch

    from adbench.backbones.distill import distill

    torch.set_num_threads(own.threads)
    folder, device = own.folder, _device(own.device)
    print(distill(rest, folder, device=device, bfloat16=own.bfloat16, say=say))
    return 0


def _check_files(recipe: Recipe) -> None:
    if recipe.objective == "distill":
        regular_file(str(recipe.teacher), "teacher")
    if recipe.start is not None:
        regular_file(recipe.start, "start")


def _device(wanted: str) -> str:
    import torch

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("device=cuda: torch finds no CUDA device here; set device=cpu")
    return "cuda" if there and wanted != "cpu" else "cpu"
