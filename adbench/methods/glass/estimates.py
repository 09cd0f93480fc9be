"""What GLASS needs before it is trained: layers that fit together, and bytes."""

from __future__ import annotations

from adbench.backbones import FeatureExtractor
from adbench.errors import UserError
from adbench.methods.glass.detector import GlassDetector
from adbench.methods.glass.pool import FeaturePool
from adbench.methods.glass.settings import GlassKeys


def check_layers(backbone: FeatureExtractor, detector: GlassDetector) -> None:
    """Refuse maps that are not finest first, or leave no position to judge.

    Raises:
        UserError: says which.
    """
    if sorted(backbone.strides) != list(backbone.strides):
        raise UserError(
            f"model.layers={backbone.layers}: strides {backbone.strides}, finest first is expected"
        )
    height, width = detector.image_size
    if min(detector.aggregation.grid((height, width), backbone.strides[0])) < 1:
        raise UserError(
            f"model.patch={detector.aggregation.patch} leaves no position of {height}x{width} px "
            f"at stride {backbone.strides[0]}; read finer layers or set an odd patch"
        )


def cached_bytes(detector: GlassDetector, keys: GlassKeys, images: int) -> int:
    """Return the bytes of what is kept of ``images`` normal images."""
    if keys.gas.as_published:
        return 0
    columns = detector.aggregation.columns
    if keys.rows is not None:
        copies = keys.las_copies if keys.las else 0
        positions, width = _positions(detector), detector.aggregation.width
        found = FeaturePool.nbytes(images, copies, positions, width, keys.max_memory)
        if detector.coarse is not None:
            positions = round(positions * keys.bank.coarse**2)
            found += FeaturePool.nbytes(images, 0, positions, width, keys.max_memory)
        return found
    height, width = detector.image_size
    values = sum(
        (stop - start) * (height // stride) * (width // stride)
        for (start, stop), stride in zip(columns, detector.backbone.strides, strict=True)
    )
    return min(4 * values * images, keys.max_memory)


def step_bytes(detector: GlassDetector, keys: GlassKeys) -> int:
    """Return the bytes of a step's rows for a batch of one image: normal, global and local."""
    columns = detector.aggregation.width + keys.hidden
    return 3 * 4 * (keys.rows or _positions(detector)) * columns


def _positions(detector: GlassDetector) -> int:
    """Return the positions of an image's grid."""
    grid = detector.aggregation.grid(detector.image_size, detector.backbone.strides[0])
    return max(grid[0], 0) * max(grid[1], 0)
