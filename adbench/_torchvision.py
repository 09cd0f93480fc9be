"""Lets torchvision import beside a torch build that its compiled operators do not fit.

The package registry pairs a CPU build of torch with a CUDA build of torchvision. Its ``_C``
library then fails to load, and ``import torchvision`` dies registering fake kernels for two
operators whose schemas nobody declared. Declaring the schemas is enough: adbench calls none of
torchvision's compiled operators. Where the library loads, nothing is declared.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[Any] = []  # a torch Library undeclares its schemas when it is collected


class _TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Acts once, at the first import of torchvision, then steps aside."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            _declare_missing_schemas(Path(spec.origin).parent)
        return None


def _declare_missing_schemas(package: Path) -> None:
    import torch

    for library in (*package.glob("_C*.so"), *package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))
            return
        except (OSError, RuntimeError):
            continue
    library_ = torch.library.Library("torchvision", "DEF")
    _kept.append(library_)
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library_.define(schema)


def install() -> None:
    """Put the finder first on ``sys.meta_path``; free of torch, harmless when repeated."""
    if "torchvision" in sys.modules:
        return
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())
