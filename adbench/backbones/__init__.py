"""Feature extractors and the rules for their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adbench.backbones.extractor import FeatureExtractor
    from adbench.backbones.weights import build_backbone

__all__ = ["FeatureExtractor", "build_backbone"]


def __getattr__(name: str) -> Any:
    # Keys of `adbench distill` lie below this package: they are read without torch.
    if name == "FeatureExtractor":
        from adbench.backbones.extractor import FeatureExtractor

        return FeatureExtractor
    if name == "build_backbone":
        from adbench.backbones.weights import build_backbone

        return build_backbone
    raise AttributeError(f"module 'adbench.backbones' has no attribute {name!r}")
