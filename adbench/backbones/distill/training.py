"""The loop that both objectives share: schedule, averaged weights, checkpoints, resume."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adbench.backbones.bundled_network import BundledNetwork
from adbench.backbones.distill.blocks import on_device, untrained_student
from adbench.backbones.distill.recipe import Recipe
from adbench.backbones.files import regular_file
from adbench.backbones.weights import load_covering, read_tensors
from adbench.errors import UserError
from adbench.runs.files import write_beside

CHECKPOINT, WEIGHTS = "checkpoint.pt", "bundled.safetensors"
_SECONDS_BETWEEN_SAVES = 120
_STEPS_BETWEEN_LINES = 50
_WARM_STEPS = 100


class Training(ABC):
    """A resumable training of the bundled network; state lies in ``folder``.

    Subclasses give ``batches`` and ``losses``, and may add to ``told`` and ``extra_state``.

    Args:
        recipe: what to do.
        folder: ``checkpoint.pt`` and ``bundled.safetensors`` (float16, averaged weights).
        device: where to train.
        bfloat16: convolutions in bfloat16; None means on a GPU only.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        *,
        device: str = "cpu",
        bfloat16: bool | None = None,
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = torch.device(device)
        self.bfloat16 = self.device.type == "cuda" if bfloat16 is None else bfloat16
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = untrained_student()
            self.head = self.built_head()
        if recipe.start:
            start = regular_file(recipe.start, "start")
            load_covering(self.student, read_tensors(start), recipe.start)
        on_device(self.student, self.device)
        self.head.to(self.device)
        self.optimiser = torch.optim.AdamW(
            [*self.student.parameters(), *self.head.parameters()],
            lr=recipe.lr,
            betas=(0.9, 0.98),
            weight_decay=1e-4,
        )
        self.average = {k: v.detach().clone() for k, v in self.student.state_dict().items()}
        self.step = 0
        self.seconds = 0.0
        self._since = time.monotonic()

    def built_head(self) -> nn.Module:
        """Return what sits on the student while it trains; nothing by default."""
        return nn.Identity()

    def prepare(self) -> None:
        """Make pictures and statistics before the first step."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """Yield the batches of steps ``start`` to ``stop``, fixed by seed and step."""

    @abstractmethod
    def losses(self, batch: Any) -> list[Tensor]:
        """Return the losses of one batch, each a scalar; their sum is minimised."""

    def told(self) -> str:
        """Return the figures on held-out pictures, of the averaged weights."""
        return ""

    def progress(self) -> float:
        """Return the share of the training that is done, 0..1."""
        return self.recipe.progress(self.step, self.seconds + time.monotonic() - self._since)

    def run(self, say: Callable[[str], None] = print, stop_after: int | None = None) -> Path:
        """Train to the end, or pause after ``stop_after`` steps; return the weights file.

        Raises:
            UserError: the folder holds a checkpoint of another recipe.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume(say)
        say("making pictures")
        self.prepare()
        stop = self.step + stop_after if stop_after is not None else 1 << 40
        stop = min(stop, self.recipe.steps) if self.recipe.minutes is None else stop
        self._since = ticked = time.monotonic()
        for batch in self.batches(self.step, stop):
            losses = self._stepped(batch)
            if self.step % _STEPS_BETWEEN_LINES == 0:
                ticked = self._say_line(say, losses, ticked)
            over = self.progress() >= 1.0
            if over or self.step == stop or time.monotonic() - self._since > _SECONDS_BETWEEN_SAVES:
                self._save()
                say(f"held out: {self.told()}")
            if over:
                break
        return self.folder / WEIGHTS

    def _say_line(self, say: Callable[[str], None], losses: list[Tensor], ticked: float) -> float:
        now = time.monotonic()
        rate = _STEPS_BETWEEN_LINES * self.recipe.batch_size / max(now - ticked, 1e-9)
        told = " ".join(f"{float(loss):.3f}" for loss in losses)
        say(f"step {self.step} {self.progress():.1%}  {told}  {rate:.0f} img/s")
        return now

    def _stepped(self, batch: Any) -> list[Tensor]:
        rate = self.learning_rate(self.progress()) * min(1.0, (self.step + 1) / _WARM_STEPS)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        state = self.student.state_dict()
        torch._foreach_lerp_(list(self.average.values()), list(state.values()), 1 - decay)
        return [loss.detach() for loss in losses]

    def learning_rate(self, progress: float) -> float:
        """Return the rate at ``progress``: one cosine to zero."""
        return cosine(progress, self.recipe.lr)

    def averaged_network(self) -> BundledNetwork:
        """Return a copy of the student with the averaged weights."""
        network = on_device(BundledNetwork(), self.device)
        network.load_state_dict(self.average)
        return network.eval()

    def extra_state(self) -> dict[str, Any]:
        """Return what a subclass must find again after a resume."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take back what ``extra_state`` gave."""

    def _save(self) -> None:
        if not all(value.isfinite().all() for value in self.average.values()):
            raise UserError(f"the training diverged before step {self.step}: lower lr or lr_joint")
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now
        state = {
            "recipe": asdict(self.recipe),
            "student": self.student.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            **self.extra_state(),
        }
        with write_beside(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)
        half = {k: v.to("cpu", torch.float16).contiguous() for k, v in self.average.items()}
        with write_beside(self.folder / WEIGHTS) as temporary:
            save_file(half, temporary, metadata=self._metadata())

    def _metadata(self) -> dict[str, str]:
        keys = asdict(self.recipe)
        for name in ("teacher", "start"):  # a path says nothing elsewhere
            keys[name] = keys[name] and Path(keys[name]).name
        keys["folders"] = len(keys["folders"])
        seconds = f"{self.seconds:.0f}"
        return {"recipe": json.dumps(keys), "step": str(self.step), "seconds": seconds}

    def _resume(self, say: Callable[[str], None]) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            recipe = state["recipe"]
        except Exception as error:  # readers raise what they like on a damaged file
            raise UserError(_damaged(path)) from error
        if recipe != asdict(self.recipe):
            raise UserError(f"{path} belongs to another recipe: set folder= to another folder")
        try:
            self._restore(state)
        except Exception as error:  # so does whatever lacks a part
            raise UserError(_damaged(path)) from error
        say(f"resuming at step {self.step}")

    def _restore(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.head.load_state_dict(state["head"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.load_extra_state(state)


def _damaged(path: Path) -> str:
    return f"{path} cannot be read as a checkpoint: remove it to begin again, or set folder="


def check_claim(folder: Path) -> None:
    """Raise UserError where ``folder`` holds weights that no training here wrote."""
    if (folder / WEIGHTS).exists() and not (folder / CHECKPOINT).exists():
        raise UserError(
            f"{folder} holds {WEIGHTS} but no {CHECKPOINT}: nothing is overwritten, set folder= "
            "to another folder"
        )


def cosine(progress: float, peak: float, floor: float = 0.0) -> float:
    """Return the rate of a cosine from ``peak`` down to ``floor * peak``."""
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
