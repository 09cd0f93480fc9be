"""What the processes of one training share within a step: sums, quantiles, batch statistics.

Each process holds an equal part of the batch. Whatever a step computes over its batch is computed
over all parts here, so that the averaged gradients are those of one process with the whole batch.
Outside of a step, and in a training of one process, every function answers for that process alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Group(Protocol):
    """Processes that work on one batch.

    Attributes:
        rank: number of this process, 0 to ``size`` - 1.
        size: how many there are.
    """

    rank: int
    size: int

    def add(self, tensor: Tensor) -> None:
        """Replace a contiguous tensor by the sum of all processes' tensors."""
        ...

    def collect(self, tensor: Tensor) -> list[Tensor]:
        """Return all processes' tensors, of one shape, in the order of their ranks."""
        ...


class TorchGroup:
    """torch.distributed's default group."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.size = torch.distributed.get_world_size()

    def add(self, tensor: Tensor) -> None:
        torch.distributed.all_reduce(tensor)

    def collect(self, tensor: Tensor) -> list[Tensor]:
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather(found, tensor.contiguous())
        return found


_present = threading.local()


@contextlib.contextmanager
def sharing(group: Group) -> Iterator[None]:
    """Let the functions below answer for all processes of ``group``: within a training step."""
    before = _group()
    _present.group = group
    try:
        yield
    finally:
        _present.group = before


def _group() -> Group | None:
    return getattr(_present, "group", None)


def rank() -> int:
    """Return this process's number within a shared step; 0 outside."""
    group = _group()
    return 0 if group is None else group.rank


def own_key() -> tuple[int, ...]:
    """Return what tells this process's draws from the others'; nothing in the first process."""
    return (rank(),) if rank() else ()


def size() -> int:
    """Return how many processes share the step; 1 outside."""
    group = _group()
    return 1 if group is None else group.size


def summed(tensor: Tensor) -> Tensor:
    """Return the sum over processes, no gradient; ``tensor`` itself may hold it afterwards."""
    group = _group()
    if group is not None and group.size > 1:
        tensor = tensor.contiguous()
        group.add(tensor)
    return tensor


def gathered(values: Tensor) -> Tensor:
    """Return values [N] of all processes, [sum of their N], no gradient."""
    group = _group()
    if group is None or group.size == 1:
        return values
    counts = torch.zeros(group.size, dtype=torch.int64, device=values.device)
    counts[group.rank] = len(values)
    group.add(counts)
    padded = values.detach().new_zeros(int(counts.max()))
    padded[: len(values)] = values.detach()
    parts = group.collect(padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


def own_rows(values: Tensor) -> Tensor:
    """Return this process's part [N / size, ...] of what was drawn for the whole batch [N, ...]."""
    return values.chunk(size())[rank()] if size() > 1 else values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over processes; twice does no harm."""
    group = _group()
    if group is None or group.size == 1:
        return
    gradients = [p.grad for p in parameters if p.requires_grad and p.grad is not None]
    for kind in {(g.dtype, g.device) for g in gradients}:
        same = [g for g in gradients if (g.dtype, g.device) == kind]
        flat = torch.cat([g.flatten() for g in same])
        group.add(flat)
        flat /= group.size
        for gradient, part in zip(same, flat.split([g.numel() for g in same]), strict=True):
            gradient.copy_(part.view_as(gradient))


class _Summed(torch.autograd.Function):
    """A sum over processes; so is its gradient, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.group = _group()
        found = tensor.clone()
        ctx.group.add(found)
        return found

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        found = upstream[0].clone(memory_format=torch.contiguous_format)
        ctx.group.add(found)
        return found


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """Return ``F.batch_norm`` of x [N, C, ...], by the statistics of the whole batch."""
    if not training or size() == 1:
        return F.batch_norm(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            training=training,
            momentum=momentum,
            eps=eps,
        )
    axes = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = x.float()
    count = wide.numel() // wide.shape[1] * size()
    mean = _Summed.apply(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = _Summed.apply(centred.square().sum(axes)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var), momentum)
    found = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        found = found * weight.float().view(shape) + bias.float().view(shape)
    return found.to(x.dtype)


def _forward(self: Any, input: Tensor) -> Tensor:
    if not self.training or size() == 1:
        found: Tensor = self.alone.forward(self, input)
        return found
    self.num_batches_tracked += 1
    factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
    return batch_norm(
        input, self.running_mean, self.running_var, self.weight, self.bias, True, factor, self.eps
    )


class Global1d(nn.BatchNorm1d):
    """BatchNorm1d over the batches of all processes."""

    alone, forward = nn.BatchNorm1d, _forward


class Global2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes."""

    alone, forward = nn.BatchNorm2d, _forward


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: Global1d,
    nn.BatchNorm2d: Global2d,
}


def share_batch_norms(module: nn.Module) -> None:
    """Let the batch normalisations of a module normalise by the whole batch, in place.

    Names and shapes of its state stay as they are. torch's own SyncBatchNorm runs on GPUs only.
    """
    for child in module.modules():
        kind = _KINDS.get(type(child))
        if kind is not None:
            child.__class__ = kind
