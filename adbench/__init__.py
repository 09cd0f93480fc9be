"""adbench: industrial anomaly detection from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adbench import _torchvision

_torchvision.install()

__version__ = "0.1.0"
__all__ = ["__version__", "load_detector"]

if TYPE_CHECKING:
    from adbench.methods.base import load_detector


def __getattr__(name: str) -> Any:
    # `import adbench` stays free of torch: the command line must answer at once.
    if name == "load_detector":
        from adbench.methods.base import load_detector

        return load_detector
    raise AttributeError(f"module 'adbench' has no attribute {name!r}")
