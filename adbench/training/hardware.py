"""Hardware that is asked for against hardware that is there, before any data is read."""

from __future__ import annotations

import sys
from pathlib import Path

from adbench.config.schema import HardwareKeys
from adbench.errors import UserError

_DEVICE_FILES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def check_hardware(hardware: HardwareKeys) -> None:
    """Refuse devices that are not there.

    Raises:
        UserError: no such accelerator, or fewer devices than asked for.
    """
    kind, wanted = hardware.accelerator, hardware.devices
    if kind == "mps" and sys.platform != "darwin":
        raise UserError("hardware.accelerator=mps: only on Apple's machines; use hardware=cpu")
    if kind == "gpu" and not _perhaps_gpu():
        raise UserError("hardware.accelerator=gpu: there is no GPU here; use hardware=cpu")
    if kind == "cpu" and wanted == -1:
        raise UserError("hardware.devices=-1: say how many processes a CPU run has")
    if kind in ("gpu", "auto") and isinstance(wanted, int) and wanted not in (1,):
        _check_count(kind, wanted)
    elif kind == "gpu":
        _check_count(kind, 1)


def _perhaps_gpu() -> bool:
    """Whether a GPU may be there, answered without importing torch."""
    return not sys.platform.startswith("linux") or any(Path(f).exists() for f in _DEVICE_FILES)


def _check_count(kind: str, wanted: int) -> None:
    import torch

    there = torch.cuda.device_count()
    if kind == "gpu" and there == 0:
        raise UserError("hardware.accelerator=gpu: torch finds no GPU here; use hardware=cpu")
    if wanted > max(there, 1):
        raise UserError(f"hardware.devices={wanted}: {there or 'no'} GPUs are here")
