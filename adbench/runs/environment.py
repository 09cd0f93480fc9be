"""What a run ran on: versions, revision, device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "adbench",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "hydra-core",
    "omegaconf",
    "diffusers",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-python-headless",
)


def versions() -> dict[str, str]:
    """Return installed versions of what results depend on; 'absent' where not installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def git_revision() -> str | None:
    """Return the revision of the checkout adbench runs from, '+' appended when it is changed."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() or None


def environment() -> dict[str, Any]:
    """Return the environment record of run.json."""
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else _processor()
    return {
        "versions": versions(),
        "git": git_revision(),
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "command": sys.argv[1:],
    }


def device_name(device: Any) -> str:
    """Return what figures may depend on of a torch device: ``cpu``, or the GPU's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)


def bfloat16_is_fast(device: Any) -> bool:
    """Whether a torch device computes in bfloat16 itself; pretending to is slower than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    found = any(getattr(torch.cpu, name, lambda: False)() for name in checks)
    return device.type == "cpu" and found


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def peak_memory() -> int:
    """Return the process's peak resident memory in bytes (0 where unknown)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
