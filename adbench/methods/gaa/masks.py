"""Plans of pairs: which defects of which clusters lie where on which canvas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from adbench.methods.gaa import placement
from adbench.methods.gaa.geometry import (
    Similarity,
    around,
    enhanced,
    principal_angle,
    scale_factor,
    warped,
)
from adbench.methods.gaa.placement import Spot
from adbench.methods.gaa.rules import Rule
from adbench.methods.gaa.settings import MaskKeys
from adbench.methods.gaa.units import Mask, Picture, RealDefects, Unit

_SHRINK, _TRIES, _CANVASES = 0.8, 5, 3
_LEAST_SHARE = 0.1  # of a type's pairs that each of its clusters gets
_GAP, _OVERLAP = 3, 0.02  # pixels between combined defects; share of the smaller that may overlap
_MOST = 0.5  # of a picture, but for logical defects


@dataclass(frozen=True, slots=True)
class Part:
    """One defect of a pair.

    Attributes:
        unit: position of the real component that it is made from; -1: a whole region.
        top, left: of the warped frame in the picture.
        how: the place that was found, or the fallback that was taken.
    """

    unit: int
    cluster: int
    scale: float
    angle: float
    flip: bool
    top: int
    left: int
    how: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One pair to be made.

    Attributes:
        number: among the pairs of its type.
        canvas: position of the normal picture.
        parts: the first is of the plan's type.
    """

    number: int
    defect: str
    canvas: int
    parts: tuple[Part, ...]

    def as_row(self) -> dict[str, Any]:
        """Return plain values for a line of the manifest."""
        return asdict(self)

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Plan:
        """Return the plan of a manifest's line."""
        parts = tuple(Part(**part) for part in row["parts"])
        return cls(int(row["number"]), str(row["defect"]), int(row["canvas"]), parts)


class Planner:
    """Draws plans; pair n of a type follows from seed, type and n alone.

    Args:
        real: clustered.
        rules: type -> rule.
        regions: labels [H, W] uint8 of every canvas.
        keys: of the masks.
        seed: fixes every draw.
        outline: vary outlines (Eq. 5), for defects that are painted, not pasted.

    Attributes:
        counts: how often each place or fallback was taken.
    """

    def __init__(
        self,
        real: RealDefects,
        rules: Mapping[str, Rule],
        regions: Sequence[Picture],
        keys: MaskKeys,
        seed: int,
        *,
        outline: bool,
    ) -> None:
        self.real, self.rules, self.regions, self.keys = real, rules, regions, keys
        self.seed, self.outline = seed, outline and keys.enhance
        self.counts: Counter[str] = Counter()
        self._mean_area = {
            c: float(np.mean([u.area for u in real.of_cluster(c)])) for c in range(real.clusters)
        }

    def plan(self, defect: str, number: int) -> tuple[Plan, Picture]:
        """Return the plan and its components [H, W] uint8: 0 outside, 1 for the first part."""
        key = int.from_bytes(defect.encode()[:8].ljust(8), "big")
        rng = np.random.default_rng([self.seed, key, number, 0x6AA])
        for attempt in range(_CANVASES * _TRIES):
            canvas = int(rng.integers(len(self.regions)))
            labels = np.zeros(self.regions[canvas].shape, dtype=np.uint8)
            part = self._added(labels, defect, canvas, rng, last=attempt >= _CANVASES)
            if part is not None:
                break
        assert part is not None
        parts = [part]
        if rng.random() < self.keys.combined:
            others = [self._other(rng) for _ in range(int(rng.integers(1, 3)))]
            more = [self._added(labels, name, canvas, rng, last=False) for name in others]
            parts += [each for each in more if each is not None]
        self.counts.update(each.how for each in parts)
        return Plan(number, defect, canvas, tuple(parts)), labels

    def _other(self, rng: np.random.Generator) -> str:
        names = [name for name in self.real.types if self.rules[name].place != "logical"]
        sizes = np.array([len(self.real.of_type(name)) for name in names], dtype=np.float64)
        return names[int(rng.choice(len(names), p=sizes / sizes.sum()))] if names else ""

    def _added(
        self, labels: Picture, defect: str, canvas: int, rng: np.random.Generator, *, last: bool
    ) -> Part | None:
        """Add one defect to ``labels`` where it finds a place; return what was added."""
        if not defect:
            return None
        rule, taken = self.rules[defect], labels > 0
        region = self._region(rule, canvas)
        unit = self._drawn(defect, rng)
        value = int(labels.max()) + 1
        if rule.place == "logical" and self.keys.place == "rules" and not taken.any():
            labels[region] = value
            return Part(-1, self.real.units[unit].cluster, 1.0, 0.0, False, 0, 0, "logical")
        free = region & ~_grown(taken) if taken.any() else region
        scale = self._scale(self.real.units[unit], rng)
        flip = bool(rng.random() < 0.5)
        angle = float(rng.uniform(-rule.turn, rule.turn))
        for _ in range(_TRIES + 1):
            how = Similarity(scale, angle, flip)
            found = self._placed(unit, rule, how, free, region, rng, last=last)
            if found is not None and self._lies_well(found[0], found[2], taken):
                mask, how, spot = found
                at = placement.within(mask, labels.shape, spot.top, spot.left)
                assert at is not None
                labels[at[0]][mask[at[1]]] = value
                cluster = self.real.units[unit].cluster
                return Part(unit, cluster, *how, spot.top, spot.left, spot.how)
            scale *= _SHRINK
        self.counts["another canvas"] += 1
        return None

    def _region(self, rule: Rule, canvas: int) -> Mask:
        labels = self.regions[canvas]
        if self.keys.place == "random_foreground":
            return np.asarray(labels > 0)
        region = labels == rule.region
        return np.asarray(region if region.any() else labels >= 0)

    def _drawn(self, defect: str, rng: np.random.Generator) -> int:
        """Return a component: clusters in proportion to their size, each a tenth at least."""
        own = [i for i, unit in enumerate(self.real.units) if unit.defect == defect]
        clusters = sorted({self.real.units[i].cluster for i in own})
        sizes = np.array([sum(self.real.units[i].cluster == c for i in own) for c in clusters])
        shares = np.maximum(sizes / sizes.sum(), _LEAST_SHARE)
        cluster = clusters[int(rng.choice(len(clusters), p=shares / shares.sum()))]
        return int(rng.choice([i for i in own if self.real.units[i].cluster == cluster]))

    def _scale(self, unit: Unit, rng: np.random.Generator) -> float:
        low, high = self.keys.scale
        factor = scale_factor(unit.area, self._mean_area[unit.cluster], self.keys.alpha)
        spread = self.keys.diversity
        return float(np.clip(factor, low, high) * rng.uniform(1 - spread, 1 + spread))

    def component(self, unit: int, how: Similarity, rng: np.random.Generator) -> Mask:
        """Return a unit's mask after the similarity, in its frame."""
        own = self.real.units[unit]
        mask = self.real.mask_of(own)[around(own.box, self.real.components[0].shape)]
        if self.outline:
            mask = enhanced(mask, rng)
        return warped(mask, how)[0]

    def _placed(
        self,
        unit: int,
        rule: Rule,
        how: Similarity,
        free: Mask,
        region: Mask,
        rng: np.random.Generator,
        *,
        last: bool,
    ) -> tuple[Mask, Similarity, Spot] | None:
        place = "inside" if self.keys.place == "random_foreground" else rule.place
        spot: Spot | None = None
        if place == "edge":
            point = placement.outline_point(region, rng)
            if point is not None:
                own = self.real.mask_of(self.real.units[unit])
                # an angle counts against the clock in OpenCV, with clock in a picture's axes
                turned = principal_angle(own) * (-1 if how.flip else 1) - point[2]
                how = Similarity(how.scale, turned + float(rng.choice([0.0, 180.0])), how.flip)
                mask = self.component(unit, how, rng)
                spot = placement.at_edge(mask, region, point[:2], rng)
                return None if spot is None else (mask, how, spot)
        mask = self.component(unit, how, rng)
        if place == "centre":
            spot = placement.centred(mask, free, rng)
        elif place == "own":
            spot = self._own_place(unit, mask, rng)
        if spot is None:
            spot = placement.inside(mask, free, rng)
        if spot is None and last:
            everywhere = np.ones_like(region)
            spot = placement.inside(mask, everywhere, rng)
            spot = spot and Spot(spot.top, spot.left, "anywhere")
        return None if spot is None else (mask, how, spot)

    def _own_place(self, unit: int, mask: Mask, rng: np.random.Generator) -> Spot | None:
        own = self.real.mask_of(self.real.units[unit])
        y, x = (float(v.mean()) for v in np.nonzero(own))
        dy, dx = (float(v.mean()) for v in np.nonzero(mask))
        reach = self.keys.jitter * min(own.shape)
        top = round(y - dy + rng.uniform(-reach, reach))
        left = round(x - dx + rng.uniform(-reach, reach))
        at = placement.within(mask, own.shape, top, left)
        whole = at is not None and int(mask[at[1]].sum()) == int(mask.sum())
        return Spot(top, left, "own") if whole else None

    def _lies_well(self, mask: Mask, spot: Spot, taken: Mask) -> bool:
        at = placement.within(mask, taken.shape, spot.top, spot.left)
        if at is None or not mask[at[1]].any():
            return False
        area = int(mask[at[1]].sum())
        smaller = min(area, int(taken.sum())) or area
        common = int((taken[at[0]] & mask[at[1]]).sum())
        return area <= _MOST * taken.size and common <= _OVERLAP * smaller


def _grown(mask: Mask) -> Mask:
    side = 2 * _GAP + 1
    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
