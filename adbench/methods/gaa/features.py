"""What defect regions are compared by: deep features, colour, texture, form (paper: Fig. 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adbench.methods.gaa.settings import ClusterKeys
from adbench.methods.gaa.units import Mask, Picture, RealDefects, square_around

Values = NDArray[np.float64]
_SIDE, _LEAST, _RING, _AXES = 224, 48, 7, 16
_SCALES = ((8, 1.0), (16, 2.0))  # points and radius of the local binary patterns


def described(
    real: RealDefects, extractor: Callable[[Tensor], Sequence[Tensor]] | None, device: torch.device
) -> dict[str, Values]:
    """Return the blocks of features of all units, each [N, D], not scaled.

    Args:
        extractor: of deep features; None leaves that block out.
    """
    rows: dict[str, list[Values]] = {"lab": [], "lbp": [], "shape": []}
    for unit in real.units:
        image, mask = real.images[unit.picture], real.mask_of(unit)
        rows["lab"].append(colour(image, mask))
        rows["lbp"].append(texture(image, mask))
        rows["shape"].append(form(mask))
    if extractor is not None:
        rows["deep"] = [deep(real, i, extractor, device) for i in range(len(real.units))]
    return {name: np.stack(values) for name, values in rows.items()}


def fused(blocks: dict[str, Values], weights: dict[str, float]) -> Values:
    """Return the weighted concatenation [N, D].

    Each block is brought to deviation 1 per dimension and to equal total variance; the deep one
    is reduced to its main axes first.
    """
    parts = []
    for name in sorted(blocks):
        if weights.get(name, 0) > 0:
            values = scaled(blocks[name])
            if name == "deep":
                values = principal(values, _AXES)
            parts.append(weights[name] * values)
    return np.concatenate(parts, 1)


def scaled(values: Values) -> Values:
    """Return columns of mean 0 and deviation 1, divided by the root of their number."""
    deviation = values.std(0)
    centred = values - values.mean(0)
    found: Values = np.where(deviation > 1e-12, centred / np.maximum(deviation, 1e-12), 0.0)
    return found / np.sqrt(values.shape[1])


def principal(values: Values, most: int) -> Values:
    """Return the coordinates on at most ``most`` (and N - 1) principal axes."""
    count = min(len(values) - 1, most, values.shape[1])
    if count < 1:
        return values[:, :1] * 0
    left, singular, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    found: Values = left[:, :count] * singular[:count]
    return found


def block_weights(blocks: dict[str, Values], keys: ClusterKeys, seed: int) -> dict[str, float]:
    """Return the weight of each block, of sum 1: those given, or ``adaptive`` ones.

    Adaptive: by the best mean silhouette of 2 to 4 groups on the block alone, at least 0.05.
    """
    given = {name: float(getattr(keys, name)) for name in blocks}
    if keys.adaptive:
        given = {name: _divides(scaled(values), seed) for name, values in blocks.items()}
    total = sum(given.values()) or 1.0
    return {name: value / total for name, value in given.items()}


def _divides(values: Values, seed: int) -> float:
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    best = 0.05
    for k in range(2, min(4, len(values) - 1) + 1):
        labels = KMeans(k, n_init=4, random_state=seed).fit_predict(values)
        if 1 < len(set(labels.tolist())) < len(values):
            best = max(best, float(silhouette_score(values, labels)))
    return best


@torch.no_grad()
def deep(
    real: RealDefects,
    number: int,
    extractor: Callable[[Tensor], Sequence[Tensor]],
    device: torch.device,
) -> Values:
    """Return the means over the mask of every layer's features, each of length 1 (section 4.1)."""
    unit = real.units[number]
    image, mask = real.images[unit.picture], real.mask_of(unit)
    side = max(round(1.5 * max(unit.box[2:])), _LEAST)
    top, left, side = square_around(unit.box, mask.shape, side)
    crop = image[top : top + side, left : left + side]
    inside = mask[top : top + side, left : left + side].astype(np.float32)
    pixels = cv2.resize(crop, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float().to(device) / 255
    weight = torch.from_numpy(inside)[None, None].to(device)
    found = []
    for layer in extractor(tensor):
        area = F.adaptive_avg_pool2d(weight, (layer.shape[-2], layer.shape[-1]))
        mean = (layer * area).sum((2, 3)) / area.sum((2, 3)).clamp_min(1e-12)
        found.append(F.normalize(mean.float(), dim=1)[0])
    return torch.cat(found).cpu().double().numpy()


def colour(image: Picture, mask: Mask) -> Values:
    """Return mean and deviation of L, a, b in the mask less those in a ring around it, [6]."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    ring = ring_of(mask, _RING)
    inside, outside = lab[mask], lab[ring if ring.any() else ~mask]
    if not len(outside):
        outside = inside
    parts = [inside.mean(0) - outside.mean(0), inside.std(0) - outside.std(0)]
    return np.concatenate(parts)


def own_colour(image: Picture, mask: Mask) -> Values:
    """Return the mean of L, a, b in the mask less that of its ring, and their deviation, [6].

    It is what a component keeps when it is pasted elsewhere in the light of its new place; the
    ring's deviation, which ``colour`` subtracts, is another one there.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    ring = ring_of(mask, _RING)
    inside, outside = lab[mask], lab[ring if ring.any() else ~mask]
    mean = outside.mean(0) if len(outside) else inside.mean(0)
    return np.concatenate([inside.mean(0) - mean, inside.std(0)])


def ring_of(mask: Mask, width: int) -> Mask:
    """Return the pixels outside a mask at most ``width`` from it."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    grown = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return np.asarray(grown & ~mask)


def texture(image: Picture, mask: Mask) -> Values:
    """Return histograms of uniform rotation-invariant binary patterns in the mask, [10 + 18]."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    parts = []
    for points, radius in _SCALES:
        codes = binary_patterns(grey, points, radius)[mask]
        parts.append(np.bincount(codes, minlength=points + 2) / len(codes))
    return np.concatenate(parts)


def binary_patterns(grey: Values, points: int, radius: float) -> NDArray[np.int64]:
    """Return the uniform rotation-invariant local binary pattern of every pixel, 0..points + 1.

    Neighbours are interpolated bilinearly; beyond the border the picture is continued.
    """
    angles = 2 * np.pi * np.arange(points) / points
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
    values = grey.astype(np.float32)
    bits = []
    for angle in angles:
        # rounded: a neighbour that lies on a pixel is that pixel, not one beside it
        y = rows + np.float32(round(-radius * float(np.sin(angle)), 5))
        x = columns + np.float32(round(radius * float(np.cos(angle)), 5))
        found = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        bits.append(found >= values)
    ring = np.stack(bits).astype(np.int64)
    changes = np.abs(ring - np.roll(ring, 1, 0)).sum(0)
    return np.asarray(np.where(changes <= 2, ring.sum(0), points + 1))


def form(mask: Mask) -> Values:
    """Return log area, aspect, solidity and eccentricity, [4]."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours).astype(np.float32)
    area = float(mask.sum())
    (_, (one, other), _) = cv2.minAreaRect(points)
    long, short = max(one, other, 1.0), max(min(one, other), 1.0)
    hull = np.zeros(mask.shape, dtype=np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(points).astype(np.int32), 1)
    y, x = np.nonzero(mask)
    spread = np.cov(np.stack([y, x])) if len(y) > 1 else np.eye(2)
    small, large = np.sort(np.maximum(np.linalg.eigvalsh(spread), 1 / 12))
    eccentricity = float(np.sqrt(1 - small / large))
    return np.array([np.log(area), short / long, area / max(float(hull.sum()), 1), eccentricity])
