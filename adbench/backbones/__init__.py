"""Feature extractors and the rules for their weights."""

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.weights import build_backbone

__all__ = ["FeatureExtractor", "build_backbone"]
