"""The demo data set: three procedural categories with pixel-exact defects, made in seconds."""

from adbench.data.demo.factory import CATEGORIES, ensure_demo

__all__ = ["CATEGORIES", "ensure_demo"]
