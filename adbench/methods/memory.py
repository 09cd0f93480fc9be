"""What a network would need in memory, known before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from adbench.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

# A float32 parameter in training: its value, its gradient and the two moments of Adam.
_TRAINED = 16


def free_memory() -> int | None:
    """Return bytes of memory that can be had; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    return values.get("MemAvailable")


def refuse_beyond(needed: int, what: str, keys: str) -> None:
    """Raise UserError where ``needed`` bytes are not free.

    Args:
        what: is about to be allocated.
        keys: of the configuration that make it smaller.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"{what} would take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; "
            f"lower {keys}"
        )


def built(make: Callable[[], Network], what: str, keys: str) -> Network:
    """Return ``make()``, unless its parameters and buffers do not fit into memory.

    The network is made twice: first on the meta device, where a tensor is its shape alone, so
    that an impossible width costs milliseconds and no memory. Random numbers are drawn by the
    second making only.

    Raises:
        UserError: as ``refuse_beyond``.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        shape = make()
    refuse_beyond(held_bytes(shape), what, keys)
    return make()


def held_bytes(network: nn.Module) -> int:
    """Return the bytes of all parameters and buffers."""
    tensors = [*network.parameters(), *network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def training_bytes(*networks: nn.Module | None) -> int:
    """Return the bytes that parameters take in training on this machine's memory.

    Each trained one counts with its gradient and Adam's two moments; networks on another device
    hold theirs there and count 0.
    """
    trained = [p for net in networks if net is not None for p in net.parameters()]
    return sum(_TRAINED * p.numel() for p in trained if p.requires_grad and p.device.type == "cpu")
