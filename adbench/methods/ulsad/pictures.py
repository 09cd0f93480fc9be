"""Whom positions of an image attend to, drawn (after Figure 5)."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from adbench.methods.ulsad.attention import positions
from adbench.methods.ulsad.detector import Source, UlsadDetector
from adbench.runs.pictures import write_png

_SIDE = 192
_QUERIES = 4
_MARK = (0, 220, 255)


@torch.no_grad()
def attention_sheet(detector: UlsadDetector, image: Tensor) -> np.ndarray:
    """Return a picture [H, W, 3] uint8 RGB of attention in image [1, 3, H, W].

    First row: the image with its query positions, then each one's self-attention over the
    features (Eq. 3). Second row, where there is a global branch: the same positions asked by the
    autoencoder's output, the cross-attention (Eq. 4).
    """
    grid = detector.features(image)
    places = spread_positions(grid, _QUERIES)
    rows = []
    sources: tuple[Source, ...] = ("features", "autoencoder")
    for source in sources if detector.autoencoder is not None else sources[:1]:
        tiles = [_photograph(image[0], places, grid.shape[-2:])]
        for number, (row, column) in enumerate(places, 1):
            weights = detector.attention_map(image, row, column, source=source)[0, 0]
            tiles.append(_labelled(_heat(weights), f"{number} {source}"))
        rows.append(np.hstack(tiles))
    return cv2.cvtColor(np.vstack(rows), cv2.COLOR_BGR2RGB)


def spread_positions(grid: Tensor, count: int) -> list[tuple[int, int]]:
    """Return ``count`` positions (row, column) of grid [1, C, h, w] whose features differ most.

    The first is the farthest from the mean feature, each further one the farthest from those
    before, by the cosine: one position a kind of thing in the picture.
    """
    features = torch.nn.functional.normalize(positions(grid)[0], dim=1)
    mean = torch.nn.functional.normalize(features.mean(0), dim=0)
    nearest = features @ mean
    found: list[int] = []
    for _ in range(min(count, len(features))):
        found.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, features @ features[found[-1]])
        nearest[found] = torch.inf
    width = int(grid.shape[-1])
    return [divmod(index, width) for index in found]


def _photograph(
    image: Tensor, places: list[tuple[int, int]], grid: torch.Size | tuple[int, int]
) -> np.ndarray:
    pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    tile = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), (_SIDE, _SIDE))
    for number, (row, column) in enumerate(places, 1):
        centre = (round((column + 0.5) * _SIDE / grid[1]), round((row + 0.5) * _SIDE / grid[0]))
        cv2.circle(tile, centre, 4, _MARK, 1)
        at = (min(centre[0] + 6, _SIDE - 12), max(centre[1] - 4, 12))
        cv2.putText(tile, str(number), at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _MARK, 1)
    return np.asarray(tile)


def _heat(weights: Tensor) -> np.ndarray:
    """Return weights [h, w] as colours; the square root shows the small ones too."""
    array = weights.float().sqrt().cpu().numpy()
    level = (array / max(float(array.max()), 1e-12) * 255).astype(np.uint8)
    large = cv2.resize(level, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS))


def _labelled(tile: np.ndarray, text: str) -> np.ndarray:
    cv2.putText(tile, text, (5, _SIDE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    return tile


def write_attention(detector: UlsadDetector, image: Tensor, folder: Path) -> None:
    """Write ``attention.png``."""
    write_png(folder / "attention.png", attention_sheet(detector, image))
