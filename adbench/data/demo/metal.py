"""``metal``: a turned flange with a bore, a bolt circle and a stamped code, on a rubber mat."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from adbench.data.demo.flaws import Flawed, Mask, flaw
from adbench.data.demo.surface import Array, Surface, covered, single, smooth_noise

DEFECTS = ("dent", "hole", "scratch", "stain")

_OUTER, _BOSS, _BORE = 106.0, 54.0, 30.0
_BOLT_CIRCLE, _BOLT = 79.0, 10.5


def metal(size: int, rng: Generator, defect: str | None, difficulty: float) -> Flawed:
    """Return the flange, with ``defect`` of ``DEFECTS`` where one is asked for."""
    surface = _mat(size, rng)
    centre = rng.normal(128.0, 2.0, 2)
    turn = rng.normal(0.0, 0.12)
    radius = np.hypot(surface.x - centre[0], surface.y - centre[1]) * rng.normal(1.0, 0.008)
    angle = np.arctan2(surface.y - centre[1], surface.x - centre[0])
    bolts = _bolt_distance(radius, angle - turn)
    body = np.maximum(np.maximum(radius - _OUTER, _BORE - radius), _BOLT - bolts)
    _turned_face(surface, radius, angle, body, rng)
    _stamp_code(surface, centre, turn, rng)
    if defect is None:
        return Flawed.whole(surface)
    inside: Mask = body < -5.0  # not the chamfers
    return flaw(
        surface,
        defect,
        rng,
        difficulty,
        inside=inside,
        beneath=(0.28, 0.25, 0.21),
        centres=body < -11.0,
    )


def _mat(size: int, rng: Generator) -> Surface:
    surface = Surface.plain(size, (0.055, 0.06, 0.07))
    grain = smooth_noise(rng, size, size // 2) + smooth_noise(rng, size, size // 5)
    surface.albedo *= (1.0 + 0.12 * grain)[..., None]
    surface.height += 0.25 * grain
    return surface


def _bolt_distance(radius: Array, angle: Array) -> Array:
    """Return the distance to the nearest of six bolt holes' centres."""
    sector = pi / 3
    folded = (angle + sector / 2) % sector - sector / 2
    return np.hypot(radius * np.cos(folded) - _BOLT_CIRCLE, radius * np.sin(folded))


def _turned_face(
    surface: Surface, radius: Array, angle: Array, body: Array, rng: Generator
) -> None:
    cover = covered(body, 1.2)
    rings = _tool_marks(radius, rng)
    lamp = rng.normal(0.9, 0.10)
    glint = np.abs(np.cos(angle - lamp)) ** 10 + 0.35 * np.abs(np.cos(angle - lamp - 1.2)) ** 24
    shade = 0.22 + 0.03 * rings + (0.34 + 0.07 * rings) * glint
    steel = np.clip(shade, 0.02, 1.0)[..., None] * single([1.0, 0.985, 0.95])
    surface.paint(cover, steel.astype(np.float32), gloss=0.10)
    boss = covered(radius - _BOSS, 5.0)
    chamfer = np.clip((body + 4.0) / 4.0, 0.0, 1.0)
    profile = 7.0 * boss - 4.0 * chamfer + 0.10 * rings
    surface.put(cover, np.asarray(profile, dtype=np.float32), 9.0)


def _tool_marks(radius: Array, rng: Generator) -> Array:
    """Return the turning marks: one random profile over the radius, the same all round."""
    fine = rng.standard_normal(160)
    coarse = np.repeat(rng.standard_normal(40), 4)
    marks = (0.7 * fine + 0.7 * coarse).astype(np.float32)
    return np.interp(radius, np.arange(160, dtype=np.float32), marks).astype(np.float32)


def _stamp_code(surface: Surface, centre: Array, turn: float, rng: Generator) -> None:
    """Stamp a dot code of random content on the rim between two bolts."""
    code = rng.random((12, 3)) < 0.55
    for column, row in zip(*np.nonzero(code), strict=True):
        angle = turn + pi / 2 + (column - 5.5) * 0.046
        reach = 93.0 - 4.4 * row
        x, y = centre[0] + reach * cos(angle), centre[1] + reach * sin(angle)
        spot = surface.window(x, y, 4.0)
        pit = covered(np.hypot(spot.x - np.float32(x), spot.y - np.float32(y)) - 1.35, 1.2)
        spot.paint(pit * np.float32(0.8), (0.05, 0.05, 0.05), gloss=0.0)
        spot.height -= 1.5 * pit
