"""GLASS: a discriminator trained on global and local synthetic anomalies (papers/000)."""

from adbench.methods.glass.detector import GlassDetector
from adbench.methods.glass.module import GlassModule

__all__ = ["GlassDetector", "GlassModule"]
