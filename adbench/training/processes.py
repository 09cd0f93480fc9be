"""Several processes for one training: who leads, who follows, and what they share.

The first process does all that a run is: it holds the folder's lock, runs stages, writes, tests.
The others only take part in fitting; what to fit they are told. So every test picture is scored
once, by the one process that also scores them where there is no other.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from adbench.config.schema import HardwareKeys
from adbench.errors import UserError
from adbench.methods import ranks

_PATIENCE = timedelta(days=7)  # the others wait while the first runs stages and tests


class Team:
    """The processes of one training.

    Attributes:
        rank, size: this process's number, and how many there are.
    """

    rank, size = 0, 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def tell(self, task: Any) -> None:
        """Give the others something to do; None: they may go."""

    def heard(self) -> Any:
        """Return what the first process tells; None: this one may go."""

    def agreed(self, value: Any) -> Any:
        """Return the first process's ``value`` in all."""
        return value

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over processes."""
        return values


class _Processes(Team):
    """A team by torch.distributed, which Lightning or torchrun has set up."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()
        # beside the default group: plain messages, and a patience that no gradient should have
        self._messages = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def tell(self, task: Any) -> None:
        self.agreed(task)

    def heard(self) -> Any:
        return self.agreed(None)

    def agreed(self, value: Any) -> Any:
        held = [value]
        torch.distributed.broadcast_object_list(held, src=0, group=self._messages)
        return held[0]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        found = values.cpu().clone()
        torch.distributed.all_reduce(found, group=self._messages)
        return found / self.size


@contextlib.contextmanager
def joined(hardware: HardwareKeys) -> Iterator[Team]:
    """Yield the team of this training, started by Lightning unless torchrun or SLURM has done so.

    Raises:
        UserError: as many processes as are there were not asked for.
    """
    if hardware.strategy != "ddp":
        yield Team()
        return
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy as Launching

    try:
        fabric = Fabric(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=Launching(timeout=_PATIENCE),
        )
        fabric.launch()
    except ValueError as error:
        raise UserError(f"hardware=ddp: {' '.join(str(error).split())[:300]}") from None
    team = _Processes()
    wanted = int(getattr(fabric.strategy, "num_processes", team.size)) * hardware.nodes
    if team.size != wanted:
        raise UserError(
            f"hardware=ddp: {team.size} processes were started, {wanted} are asked for by "
            f"hardware.devices={hardware.devices} hardware.nodes={hardware.nodes}"
        )
    try:
        yield team
    except Exception:
        if team.leads:  # those that wait may go; in the middle of a step they notice themselves
            with contextlib.suppress(Exception):
                team.tell(None)
        raise
    if team.leads:
        team.tell(None)


def follow(team: Team, fitted: Callable[[Any], None], log: Callable[[], Path | None]) -> None:
    """Do what the first process tells until there is no more.

    Args:
        fitted: takes part in one fitting.
        log: where to write down what went wrong.

    Raises:
        SystemExit: the training ended otherwise; the first process tells why.
    """
    try:
        while (task := team.heard()) is not None:
            fitted(task)
    except UserError:
        raise SystemExit(0) from None  # the first process meets it too, and says so
    except Exception:
        path = log()
        if path is not None:
            with contextlib.suppress(OSError):
                path.write_text(traceback.format_exc(), encoding="utf-8")
        raise SystemExit(1) from None


class SharedSteps(DDPStrategy):
    """Processes that start with equal parameters and take their steps together.

    The module is not wrapped: several methods write gradients by hand, which the hooks of torch's
    wrapper would not see, and what they train is small. Gradients are averaged where they are
    complete, batch statistics and quantiles within the step (``adbench.methods.ranks``).
    """

    def configure_ddp(self) -> None:
        module = self.lightning_module
        assert module is not None
        ranks.share_batch_norms(module)
        self._group = ranks.TorchGroup()
        for tensor in module.state_dict().values():
            torch.distributed.broadcast(tensor, 0)

    def training_step(self, *arguments: Any, **keys: Any) -> Any:
        with ranks.sharing(self._group):
            return super().training_step(*arguments, **keys)


class Averaged(Callback):
    """Averages the gradients of what Lightning differentiates."""

    def on_after_backward(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        with ranks.sharing(ranks.TorchGroup()):
            ranks.average_gradients(module.parameters())
