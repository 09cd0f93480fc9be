"""Checkpoints of a training: written whole, two kept, read without running what they hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, is_frozen
from adbench.runs.files import remove

LAST, BEFORE = "last.ckpt", "before.ckpt"


class Checkpoint(Callback):
    """Writes ``last.ckpt`` at ends of epochs, whole or not at all; keeps the one before it.

    Args:
        folder: where both lie.
        minutes: least time between two.
        agreed: value of the first of several processes that train together.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        agreed: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.folder, self._agreed = folder, agreed
        self.seconds = minutes * 60
        self._last = time.monotonic()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        early = time.monotonic() - self._last < self.seconds and not trainer.should_stop
        if self._agreed(early):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LAST
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            trainer.save_checkpoint(temporary)
            if trainer.is_global_zero:
                if path.is_file():
                    remove(self.folder / BEFORE)
                    os.replace(path, self.folder / BEFORE)
                remove(path)
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        self._last = time.monotonic()

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        # Frozen weights are rebuilt from their source: a checkpoint of a small head stays small.
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {n: v for n, v in state.items() if not is_frozen(n)}


def readable_checkpoint(
    folder: Path, module: AnomalyModule, say: Callable[[str], None]
) -> Path | None:
    """Return the newest checkpoint that can be read; None where none was written.

    Raises:
        UserError: those that lie there are broken, hold more than plain data, or belong to
            another model.
    """
    why = ""
    for path in (folder / LAST, folder / BEFORE):
        if not os.path.lexists(path):
            continue
        found = _loaded(path)
        if isinstance(found, Mapping):
            _check_names(path, found, module)
            say(f"resuming from {path}")
            return path
        why = why or f"{path} cannot be read ({found})"
        say(f"{path} cannot be read ({found}): trying the one before it")
    if why:
        raise UserError(f"{why}; force=true begins anew")
    return None


def _loaded(path: Path) -> Mapping[str, Any] | str:
    """Return a checkpoint's plain data, or what is wrong with the file."""
    if path.is_symlink() or not path.is_file():
        return "no ordinary file"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises what it likes on a broken file
        return " ".join(str(error).split())[:120] or type(error).__name__
    if not isinstance(found, Mapping) or not isinstance(found.get("state_dict"), Mapping):
        return "it is no checkpoint of a training"
    return found


def _check_names(path: Path, found: Mapping[str, Any], module: AnomalyModule) -> None:
    """Refuse tensors of other names or shapes: the rest of the module would stay untrained."""
    expected = {n: v.shape for n, v in module.state_dict().items() if not is_frozen(n)}
    stored = {n: getattr(v, "shape", None) for n, v in found["state_dict"].items()}
    lost = sorted(set(expected) - set(stored)) or sorted(set(stored) - set(expected))
    lost = lost or [n for n in sorted(expected) if expected[n] != stored[n]]
    if lost:
        raise UserError(
            f"{path} belongs to another model: {lost[0]} does not fit; force=true begins anew"
        )
