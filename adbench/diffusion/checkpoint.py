"""State of a stage's training on disk: one way to write it, one to take it up again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from adbench.errors import UserError
from adbench.runs.files import write_beside

Stateful = nn.Module | torch.optim.Optimizer


def save_training(file: Path, step: int, parts: Mapping[str, Stateful]) -> None:
    """Write the state of every part after ``step`` steps, whole or not at all."""
    document = {name: part.state_dict() for name, part in parts.items()}
    with write_beside(file) as temporary:
        torch.save({**document, "step": step}, temporary)


def restored_step(
    file: Path, parts: Mapping[str, Stateful], device: torch.device | str = "cpu"
) -> int:
    """Load the parts' states from ``file``; return the steps that were done, 0 without a file.

    Raises:
        UserError: the file is damaged, or of another training.
    """
    if not file.is_file():
        return 0
    try:
        document = torch.load(file, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(document[name])
        return int(document["step"])
    except Exception as error:  # readers raise what they like on a damaged file
        raise UserError(
            f"{file} cannot be read as a checkpoint of this training: remove it to begin again"
        ) from error
