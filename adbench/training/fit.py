"""Fits a module with Lightning: trainer, callbacks, resuming, choice of the state that counts."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from adbench.config.schema import HardwareKeys, Settings
from adbench.data.datamodule import DataModule
from adbench.methods.base import AnomalyModule
from adbench.runs.environment import bfloat16_is_fast
from adbench.runs.folder import RunFolder
from adbench.training.callbacks import Budget, History, Progress
from adbench.training.checkpoints import Checkpoint, readable_checkpoint
from adbench.training.loggers import build_logger, log_to
from adbench.training.processes import Averaged, SharedSteps, Team
from adbench.training.seal import Seal
from adbench.training.selection import Selection, selections
from adbench.training.testing import device_of

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training came to.

    Attributes:
        epoch: the one whose state counts.
        best: name of a selection -> its best epoch with figures, for metrics.json.
    """

    epoch: int
    best: dict[str, Any] = field(default_factory=dict)


def fit(
    module: AnomalyModule,
    datamodule: DataModule,
    config: Mapping[str, Any],
    keys: Settings,
    folder: RunFolder,
    seal: Seal,
    say: Say,
    team: Team | None = None,
) -> Fitted:
    """Train a prepared module, from its last checkpoint on; leave the state that counts in it.

    Args:
        team: processes that train together; only the first one writes.

    Raises:
        UserError: the checkpoint belongs to another model, or none can be read.
    """
    team = team or Team()
    datamodule.share(team.rank, team.size)
    logger = build_logger(config["logger"], folder.path) if team.leads else None
    history = History(folder / "history.csv", log_to(logger), team)
    chosen = selections(datamodule, config, keys, folder, history, seal)
    budget = Budget(keys.train, len(datamodule.train_dataloader()), team.agreed)
    module.progress, module.planned_steps = budget.fraction, budget.steps
    live = team.leads and not keys.plain and os.isatty(2)
    callbacks = [
        budget,
        *chosen,
        history,
        Progress(budget, say, live=live, model=config["model"]["name"]),
        Checkpoint(folder / "checkpoints", keys.train.checkpoint_minutes, team.agreed),
        *([Averaged()] if team.size > 1 else []),
    ]
    trainer = _trainer(keys, callbacks, logger or False, folder)
    checkpoint = readable_checkpoint(folder / "checkpoints", module, say)
    # Checkpoints leave the frozen backbone out; all other names were compared just now.
    module.strict_loading = False
    module.train()
    with _interrupts_raised():
        trainer.fit(
            module,
            datamodule=datamodule.without_test(),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True,
        )
    epoch = _restored_epoch(module, chosen, trainer.current_epoch, say)
    return Fitted(epoch, {each.name: each.best for each in chosen if each.best is not None})


def fit_alone(
    module: AnomalyModule, datamodule: DataModule, keys: Settings, folder: RunFolder
) -> None:
    """Train a prepared module to the end of its budget; nothing is written, chosen or shared."""
    budget = Budget(keys.train, len(datamodule.train_dataloader()))
    module.progress, module.planned_steps = budget.fraction, budget.steps
    trainer = _trainer(keys, [budget], False, folder)
    module.train()
    with _interrupts_raised():
        trainer.fit(module, datamodule=datamodule)
    module.eval()


def _trainer(
    keys: Settings, callbacks: Sequence[Callback], logger: Any, folder: RunFolder
) -> lightning.Trainer:
    hardware = keys.hardware
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=SharedSteps() if hardware.strategy == "ddp" else "auto",
        precision=settled_precision(hardware),
        max_epochs=-1,
        logger=logger,  # False: none; None would mean Lightning's own choice
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,  # the data module deals every batch out to the processes
        num_sanity_val_steps=0,
        limit_val_batches=0,
        deterministic="warn" if hardware.deterministic else False,
        default_root_dir=folder.path,
    )


def settled_precision(hardware: HardwareKeys) -> Any:
    """Return Lightning's precision; ``auto`` is bf16-mixed where the device computes in it."""
    if hardware.precision != "auto":
        return hardware.precision
    fast = bfloat16_is_fast(device_of(hardware.accelerator))
    return "bf16-mixed" if fast else "32-true"


def _restored_epoch(module: AnomalyModule, chosen: Sequence[Selection], last: int, say: Say) -> int:
    for selection in chosen:
        epoch = selection.restore(module)
        if epoch is not None:
            say(f"epoch {epoch} chosen by {selection.name}")
            return epoch
    return last


@contextlib.contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Turn Lightning's answer to Ctrl-C (exit code 1, further ones ignored) back into itself."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
