"""Exact and streaming metrics of scores and anomaly maps; imports nothing else of adbench."""

from adbench.metrics.image import image_metrics
from adbench.metrics.pixel import PixelMetrics, pixel_metrics
from adbench.metrics.spro import Channel, SproMetrics

VERSION = 1
"""Of the definitions: raised by whoever changes a figure; two versions' are not compared."""

__all__ = ["Channel", "PixelMetrics", "SproMetrics", "image_metrics", "pixel_metrics"]
