"""Features made once and drawn from: steps without a pass of the backbone (ours, not the paper's).

The paper takes every position of a few images to a step, and new local anomalies at each. With a
budget of minutes on two cores nine tenths of it go into the backbone. Here the local anomalies
are made once, and a step draws rows from all images: more and better mixed steps for less.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from adbench.backbones.feature_cache import FeatureCache
from adbench.methods.aggregation import PatchFeatures

KEPT = 128  # rows of each kind kept of an image with a local anomaly


def as_features(rows: Tensor) -> PatchFeatures:
    """Return rows [N, C] as the features of one image of N positions."""
    return PatchFeatures([rows[None, :, None]], [(0, rows.shape[1])], (len(rows), 1), rows.shape[1])


def column_spread(batches: Iterable[PatchFeatures]) -> Tensor:
    """Return the standard deviation [C] of each column over all rows; 1 for a constant column."""
    shift: Tensor | None = None
    count = 0
    total = square = torch.zeros(())
    for features in batches:
        rows = features.rows()
        shift = rows.mean(0) if shift is None else shift  # float32 sums about it keep their digits
        centred = rows - shift
        total = total + centred.sum(0).double()
        square = square + centred.square().sum(0).double()
        count += len(rows)
    if not count:
        raise ValueError("no batch to take the spread of")
    spread = (square / count - (total / count) ** 2).clamp(min=0).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread)).to(torch.get_default_dtype())


class FeaturePool:
    """Joined features of normal images and, where wanted, of local anomalies; half precision.

    Of an image with a local anomaly ``KEPT`` masked rows are kept and as many that are not; where
    it has fewer of a kind they repeat.

    Args:
        images: normal images to come.
        copies: local anomalies of each.
        max_memory: bytes that each of both kinds may take in memory; beyond, a mapped file.
    """

    def __init__(self, images: int, copies: int, max_memory: int) -> None:
        self.normals = FeatureCache(images, dtype="float16", max_memory=max_memory)
        self.locals = FeatureCache(images * copies, dtype="float16", max_memory=max_memory)

    @staticmethod
    def nbytes(images: int, copies: int, positions: int, columns: int, max_memory: int) -> int:
        """Return the bytes it will take in memory, P positions an image, C columns."""
        kinds = (images * positions, images * copies * 2 * KEPT)
        return sum(min(2 * rows * columns, max_memory) for rows in kinds)

    def fill_normals(self, batches: Iterable[Tensor]) -> None:
        """Keep the ``normal_rows`` of batches of images that come in order."""
        self.normals.fill(batches, lambda found: [found])

    def fill_locals(self, batches: Iterable[Tensor]) -> None:
        """Keep the ``local_rows`` of all images, once for each copy."""
        self.locals.fill(batches, lambda found: [found])

    def images(self, index: Tensor, device: torch.device) -> PatchFeatures:
        """Return the features of the normal images at ``index`` [B]."""
        (rows,) = self.normals(index, device)
        grid = (rows.shape[1], rows.shape[2])
        return PatchFeatures([rows], [(0, rows.shape[3])], grid, rows.shape[3])

    def draw(
        self, count: int, generator: Generator, device: torch.device
    ) -> tuple[PatchFeatures, PatchFeatures | None, Tensor | None]:
        """Return ``count`` normal rows, as many of local anomalies, and their target [count].

        Any image, any position, with replacement; the first half of the local rows is masked.
        None and None where there are no local anomalies.
        """
        (kept,) = self.normals.kept
        normal = _drawn(kept.reshape(len(kept), -1, kept.shape[-1]), count, generator)
        if not self.locals.kept:
            return as_features(normal.to(device)), None, None
        (kept,) = self.locals.kept
        half = count // 2
        masked = _drawn(kept[:, :KEPT], half, generator)
        clean = _drawn(kept[:, KEPT:], count - half, generator)
        target = torch.zeros(count, device=device)
        target[:half] = 1
        local = torch.cat([masked, clean])
        return as_features(normal.to(device)), as_features(local.to(device)), target


def normal_rows(features: PatchFeatures) -> Tensor:
    """Return the joined features [B, h, w, C] of images, half precision."""
    shape = (len(features), *features.grid, features.width)
    return features.rows().view(shape).half()


def local_rows(features: PatchFeatures, mask: Tensor, generator: Generator) -> Tensor:
    """Return the rows kept of images with local anomalies, [B, 2 KEPT, C], half precision.

    Args:
        mask: on the grid, [N], 0 or 1.
    """
    images = features.rows().view(len(features), -1, features.width)
    masks = mask.view(len(features), -1) > 0
    kept = [_both(*each, generator) for each in zip(images, masks, strict=True)]
    return torch.stack(kept).half()


def _both(rows: Tensor, mask: Tensor, generator: Generator) -> Tensor:
    """Return [2 KEPT, C] of an image's rows [P, C]: masked ones, then others."""
    return torch.cat([_kept(rows, mask, generator), _kept(rows, ~mask, generator)])


def _kept(rows: Tensor, mine: Tensor, generator: Generator) -> Tensor:
    """Return [KEPT, C] rows of those where ``mine`` [P]; of all where there is none."""
    places = mine.nonzero()[:, 0] if mine.any() else torch.arange(len(rows), device=rows.device)
    order = torch.randperm(len(places), generator=generator, device=generator.device)
    chosen = order[torch.arange(KEPT, device=order.device) % len(order)]
    return rows[places[chosen.to(places.device)]]


def _drawn(kept: NDArray[Any], count: int, generator: Generator) -> Tensor:
    """Return ``count`` rows [count, C] float32 of kept [images, rows, C], any image and row."""
    image, row = (
        torch.randint(most, (count,), generator=generator, device=generator.device).cpu().numpy()
        for most in kept.shape[:2]
    )
    return torch.from_numpy(kept[image, row]).float()
