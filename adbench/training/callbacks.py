"""Callbacks of every training: when it ends, what it writes, what it shows."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from adbench.config.schema import TrainKeys
from adbench.data.batch import Batch
from adbench.runs.files import write_beside
from adbench.training.processes import Team


class Budget(Callback):
    """Ends training after so many epochs, batches or minutes, whichever comes first."""

    def __init__(
        self,
        keys: TrainKeys,
        epoch_batches: int,
        agreed: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self._agreed = agreed  # the first process's clock counts for all that train together
        self.steps = _planned_steps(keys, epoch_batches)
        self.seconds = None if keys.minutes is None else keys.minutes * 60
        self.epoch_batches = epoch_batches
        self.done = 0
        self.spent = 0.0
        self._started = 0.0
        self._elapsed = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "spent": self.spent + self._running()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.spent = state["done"], state["spent"]

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._started = time.monotonic()
        self._look()
        if self._over():
            trainer.should_stop = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.done += 1
        self._look()
        if self._over():
            trainer.should_stop = True

    def fraction(self) -> float:
        """Share of the budget that is spent, 0..1."""
        parts = [0.0]
        if self.steps is not None:
            parts.append(self.done / self.steps)
        if self.seconds is not None:
            parts.append((self.spent + self._elapsed) / self.seconds)
        return min(max(parts), 1.0)

    def _look(self) -> None:
        if self.seconds is not None:
            self._elapsed = self._agreed(self._running())

    def _running(self) -> float:
        return time.monotonic() - self._started if self._started else 0.0

    def _over(self) -> bool:
        return self.fraction() >= 1.0


def _planned_steps(keys: TrainKeys, epoch_batches: int) -> int | None:
    bounds = []
    if keys.steps is not None:
        bounds.append(keys.steps)
    if keys.epochs is not None:
        bounds.append(keys.epochs * epoch_batches)
    return min(bounds) if bounds else None


class History(Callback):
    """Means of each epoch's named losses, as rows of history.csv."""

    def __init__(
        self,
        path: Path,
        loggers: Callable[[Mapping[str, float], int], None],
        team: Team | None = None,
    ) -> None:
        self.path, self.team = path, team or Team()
        self.rows: list[dict[str, float]] = []
        self.extra: dict[str, float] = {}
        self._log = loggers
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._images = 0
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = list(state["rows"])

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        self._sums, self._batches, self._images = {}, 0, 0
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._batches += 1
        self._images += len(batch)
        for name, value in _named_scalars(outputs).items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        seconds = time.perf_counter() - self._start
        row: dict[str, float] = {"epoch": trainer.current_epoch + 1, "batches": self._batches}
        row |= self._means()
        for number, optimiser in enumerate(trainer.optimizers):
            if optimiser.param_groups:  # none where nothing is trained step by step
                row[f"lr{number}"] = optimiser.param_groups[0]["lr"]
        row |= self.extra
        images = self._images * self.team.size
        row |= {"seconds": round(seconds, 3), "img_per_s": round(images / seconds, 2)}
        self.extra = {}
        self.rows.append(row)
        if self.team.leads:
            write_rows(self.path, self.rows)
        self._log(row, trainer.current_epoch + 1)

    def _means(self) -> dict[str, float]:
        """Return the epoch's mean of each named loss, over all processes."""
        if not self._sums:
            return {}
        totals = torch.stack([total.cpu() for total in self._sums.values()]) / self._batches
        return dict(zip(self._sums, self.team.mean(totals).tolist(), strict=True))


def _named_scalars(outputs: Any) -> dict[str, Tensor]:
    if isinstance(outputs, Tensor):
        outputs = {"loss": outputs}
    found = {}
    for name, value in (outputs or {}).items():
        if isinstance(value, Tensor) and value.numel() == 1:
            found[name] = value.detach().double()
        elif isinstance(value, int | float):
            found[name] = torch.tensor(float(value), dtype=torch.float64)
    return found


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Write rows of unequal keys as one CSV table, in one rename."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with write_beside(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


_PROBE = 4  # steps after which the length of the training is told


def minutes_preset(model: str) -> str | None:
    """Return the name of the model's preset for two cores, where it has one."""
    from adbench.config.locate import options

    name = f"{model}_cpu"
    return name if name in options("experiment") else None


def _span(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


class Progress(Callback):
    """Epoch, loss, img/s and time left: a live line on a terminal, plain lines elsewhere."""

    def __init__(
        self, budget: Budget, say: Callable[[str], None], *, live: bool, model: str
    ) -> None:
        self.budget, self.say, self.live, self.model = budget, say, live, model
        self._bar: Any = None
        self._task: Any = None
        self._start = 0.0
        self._begun = 0.0
        self._images = self._batches = 0
        self._probed = 0.0
        self._told = 0.0

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._start = self._told = time.monotonic()
        self._begun = self.budget.fraction()
        self._images = self._batches = 0
        if self.live:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("loss {task.fields[loss]}  {task.fields[speed]} img/s"),
                TextColumn("left {task.fields[left]}"),
            )
            self._task = self._bar.add_task("", total=1.0, epoch=0, loss="-", speed="-", left="-")
            self._bar.start()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        self._images += len(batch)
        self._batches += 1
        now = time.monotonic()
        if self._batches == 1:  # the first step also warms caches up
            self._probed = now
        if self._batches == _PROBE:
            self._foretell(now)
        if now - self._told < (0.5 if self.live else 15.0):
            return
        self._told = now
        self._tell(trainer, outputs, now)

    def _foretell(self, now: float) -> None:
        """Say how long the training will take, from its first steps but the very first."""
        if self.budget.seconds is not None or self.budget.steps is None:
            return
        step = (now - self._probed) / (_PROBE - 1)
        seconds = step * (self.budget.steps - self.budget.done)
        self.say(
            f"about {_span(seconds)} of training: {self.budget.steps - self.budget.done} steps "
            f"of {step:.2f} s"
        )
        if seconds > 3600 and (preset := minutes_preset(self.model)):
            self.say(f"a preset that takes minutes on two cores: experiment={preset}")

    def _tell(self, trainer: lightning.Trainer, outputs: Any, now: float) -> None:
        elapsed = now - self._start
        share = self.budget.fraction()
        left = elapsed * (1 - share) / max(share - self._begun, 1e-9)
        fields = {
            "epoch": trainer.current_epoch + 1,
            "loss": f"{float(_named_scalars(outputs).get('loss', torch.tensor(0.0))):.4f}",
            "speed": f"{self._images / elapsed:.1f}",
            "left": f"{int(left) // 60}:{int(left) % 60:02d}",
        }
        if self.live:
            self._bar.update(self._task, completed=share, **fields)
        else:
            self.say(
                f"epoch {fields['epoch']}  {share:.0%}  loss {fields['loss']}  "
                f"{fields['speed']} img/s  left {fields['left']}"
            )

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._close()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
