"""``adbench distill``: trains the network behind ``backbone=bundled``."""

from __future__ import annotations

from collections.abc import Sequence

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say

HELP = """usage: adbench distill teacher=FILE [steps=20000 folders=[...] folder=outputs/distill]
       adbench distill objective=formula

Trains adbench's own backbone from generated pictures and packaged photographs; the same command
resumes. The last line is the weights file: use it as backbone=bundled backbone.weights=FILE.
Every key is explained in conf/distill.yaml; benchmarks/backbones.py compares the result."""


def run(words: Sequence[str]) -> int:
    """Train; the last line on stdout is the weights file."""
    arguments = parsed_arguments(words)
    from adbench.config.compose import compose_config

    keys = compose_config("distill", arguments.overrides, arguments.config_dir)
    import torch

    from adbench.backbones.distill import distill

    folder, device = keys.pop("folder"), keys.pop("device")
    bfloat16 = keys.pop("bfloat16")
    torch.set_num_threads(keys.pop("threads"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    print(distill(keys, folder, device=device, bfloat16=bfloat16, say=say))
    return 0
