"""Where each type of defect may lie, learned from its few real masks or given (section 5.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from adbench.methods.gaa.geometry import principal_angle
from adbench.methods.gaa.settings import Place, RuleKeys
from adbench.methods.gaa.units import Mask, Picture

T = TypeVar("T", int, Place)
_LOGICAL, _NEAR, _CENTRE = 0.6, 0.5, 0.1
_OUTSIDE = (0.05, 0.6)  # share of an edge defect that lies outside its region
_DIRECTED, _TURN = 20.0, 15.0  # circular deviation below which a type has a direction; its turn


@dataclass(frozen=True, slots=True)
class Rule:
    """Placement of one type.

    Attributes:
        region: label.
        turn: largest turn in degrees.
        given: which of the three were given, not inferred.
    """

    place: Place
    region: int
    turn: float
    given: tuple[str, ...] = ()


def inferred(masks: Sequence[Mask], regions: Sequence[Picture], keys: RuleKeys) -> Rule:
    """Return the rule of a type from its masks [H, W] and the regions of their pictures."""
    region = keys.region or _majority([_most_covered(m, r) for m, r in zip(masks, regions)])  # noqa: B905
    places = [place_of(mask, labels == region) for mask, labels in zip(masks, regions)]  # noqa: B905
    given = tuple(n for n in ("place", "region", "turn") if getattr(keys, n) is not None)
    turn = keys.turn if keys.turn is not None else _turn(masks)
    return Rule(keys.place or _majority(places), region, turn, given)


def place_of(mask: Mask, region: Mask) -> Place:
    """Return how one mask lies to its region.

    Logical where both are nearly one; on the edge where its centre is near the outline and part
    of it lies outside; at the centre where it is near the medial axis and reaches outside; else
    inside.
    """
    both, either = int((mask & region).sum()), int((mask | region).sum())
    if either and both / either > _LOGICAL:
        return "logical"
    if not region.any() or region.all():
        return "inside"
    y, x = (round(float(v.mean())) for v in np.nonzero(mask))
    outside = 1 - both / int(mask.sum())
    inner = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    outer = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    to_edge = float(max(inner[y, x], outer[y, x]))
    if to_edge <= _NEAR * np.sqrt(mask.sum()) and _OUTSIDE[0] <= outside <= _OUTSIDE[1]:
        return "edge"
    axis = medial_axis(region)
    ys, xs = np.nonzero(axis)
    reach = _CENTRE * np.sqrt(region.sum())
    if len(ys) and outside > 0 and np.hypot(ys - y, xs - x).min() <= reach:
        return "centre"
    return "inside"


def medial_axis(region: Mask) -> Mask:
    """Return the ridge of the distance to a region's outline."""
    padded = np.pad(region, 1).astype(np.uint8)
    inner = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
    ridge = inner >= cv2.dilate(inner, np.ones((3, 3), np.uint8)) - 0.05
    return np.asarray(ridge & region & (inner > 0.5 * inner.max()))


def _most_covered(mask: Mask, labels: Picture) -> int:
    counts = np.bincount(labels[mask], minlength=2)
    counts[0] = 0
    if counts.any():
        return int(counts.argmax())
    everywhere = np.bincount(labels.ravel(), minlength=2)
    everywhere[0] = 0
    return int(everywhere.argmax()) or 1


def _turn(masks: Sequence[Mask]) -> float:
    """Return 15 degrees where the long axes agree to 20 degrees, else 180."""
    if len(masks) < 2:
        return 180.0
    angles = np.radians([2 * principal_angle(mask) for mask in masks])  # an axis has no sense
    length = abs(np.exp(1j * angles).mean())
    deviation = np.degrees(np.sqrt(max(-2 * np.log(max(length, 1e-12)), 0))) / 2
    return _TURN if deviation < _DIRECTED else 180.0


def _majority(values: Sequence[T]) -> T:
    return Counter(values).most_common(1)[0][0]
