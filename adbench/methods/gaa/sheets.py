"""Contact sheets: what each stage made, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from adbench.methods.gaa.units import Mask, Picture, RealDefects, square_around
from adbench.runs.pictures import grid, write_png

_SIDE, _COLUMNS = 128, 8
_COLOURS = np.array(
    [[0, 0, 0], [230, 60, 60], [60, 160, 230], [90, 200, 90], [240, 180, 40], [170, 90, 220]]
)


def sheet(tiles: Iterable[Picture], columns: int = _COLUMNS) -> Picture:
    """Return tiles of one size in a grid, white where there is none."""
    shown = list(tiles)
    return grid(shown, min(columns, len(shown)))


def tile(image: Picture, side: int = _SIDE) -> Picture:
    return np.asarray(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA))


def outlined(image: Picture, mask: Mask) -> Picture:
    """Return the picture with the mask's outline in red."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(image.copy(), contours, -1, (255, 40, 40), 1))


def draw_clusters(real: RealDefects, folder: Path, most: int) -> None:
    """Write ``cluster-NN-TYPE.png``: the components of each cluster, close."""
    for cluster in range(real.clusters):
        own = real.of_cluster(cluster)[:most]
        tiles = []
        for unit in own:
            mask = real.mask_of(unit)
            side = max(round(1.5 * max(unit.box[2:])), 32)
            top, left, side = square_around(unit.box, mask.shape, side)
            image = outlined(real.images[unit.picture], mask)
            tiles.append(tile(image[top : top + side, left : left + side]))
        write_png(folder / f"cluster-{cluster:02d}-{own[0].defect}.png", sheet(tiles))


def draw_regions(images: Sequence[Picture], labels: Sequence[Picture], path: Path) -> None:
    """Write pictures and their regions in colours, side by side."""
    tiles = []
    for image, regions in zip(images, labels, strict=True):
        colours = _COLOURS[regions % len(_COLOURS)]
        mixed = (0.6 * image + 0.4 * colours).astype(np.uint8)
        tiles.append(np.hstack([tile(image), tile(mixed)]))
    write_png(path, sheet(tiles, 4))


def draw_masks(canvases: Sequence[Picture], masks: Sequence[Mask], path: Path) -> None:
    """Write canvases with the outlines of the masks that are planned on them."""
    tiles = [tile(outlined(c, m), 160) for c, m in zip(canvases, masks, strict=True)]
    write_png(path, sheet(tiles))


def draw_pairs(
    images: Sequence[Picture], masks: Sequence[Mask], canvases: Sequence[Picture], path: Path
) -> None:
    """Write, for each pair, the canvas, the picture, and the picture with its mask."""
    tiles = []
    for image, mask, canvas in zip(images, masks, canvases, strict=True):
        three = [tile(canvas, 160), tile(image, 160), tile(outlined(image, mask), 160)]
        tiles.append(np.hstack(three))
    write_png(path, sheet(tiles, 3))
