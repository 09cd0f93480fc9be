"""Structural defects that any surface can have: scratch, hole, stain, thread, dent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adbench.data.demo.surface import SIDE, Array, Colour, Surface, covered, single, smooth_noise

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Flawed:
    """A surface and where it is defective, bool [S, S]."""

    surface: Surface
    mask: Mask

    @classmethod
    def whole(cls, surface: Surface) -> Flawed:
        """Return the surface without a defect."""
        return cls(surface, np.zeros(surface.height.shape, np.bool_))


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a flaw lies, how large and how strong it is (1 at difficulty 0)."""

    x: float
    y: float
    scale: float
    strength: float


def flaw(
    surface: Surface,
    name: str,
    rng: Generator,
    difficulty: float,
    *,
    inside: Mask | None,
    beneath: Colour,
    centres: Mask | None = None,
) -> Flawed:
    """Return ``surface`` with one defect drawn on it.

    Args:
        difficulty: 0 (large, clear) .. 1 (small, faint).
        inside: bool [S, S], the part that can be defective, to which the defect is clipped; None
            for the whole picture.
        beneath: the colour that shows through a hole.
        centres: bool [S, S], where the defect's centre may lie; None for ``inside``, and for
            anywhere well within the picture where that is None too.
    """
    x, y = _centre(surface, rng, inside if centres is None else centres)
    site = _Site(x, y, 1.25 - 0.55 * difficulty, 1.0 - 0.75 * difficulty)
    cover = _FLAWS[name](surface, rng, site, inside, beneath)
    return Flawed(surface, cover > 0.4)


def _centre(surface: Surface, rng: Generator, inside: Mask | None) -> tuple[float, float]:
    if inside is None:
        x, y = rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
        return float(x), float(y)
    rows, columns = np.nonzero(inside)
    chosen = rng.integers(len(rows))
    return float(columns[chosen] * surface.step), float(rows[chosen] * surface.step)


def _clipped(cover: Array, inside: Mask | None) -> Array:
    return cover if inside is None else np.where(inside, cover, np.float32(0.0))


def _blob(surface: Surface, rng: Generator, site: _Site, radius: float, rough: float) -> Array:
    """Return the signed distance to a rough ellipse about the site."""
    angle, stretch = rng.uniform(0, pi), rng.uniform(0.75, 1.3)
    dx, dy = surface.x - site.x, surface.y - site.y
    u = (cos(angle) * dx + sin(angle) * dy) * stretch
    v = (cos(angle) * dy - sin(angle) * dx) / stretch
    edge = smooth_noise(rng, surface.size, 24)
    return np.asarray(np.hypot(u, v) - site.scale * radius + rough * edge, dtype=np.float32)


def _line_distance(surface: Surface, points: NDArray[np.float64]) -> Array:
    """Return the distance [S, S] to the polyline ``points`` [N, 2] (x, y)."""
    nearest = np.full(surface.height.shape, np.inf, np.float32)
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        px, py = surface.x - np.float32(x0), surface.y - np.float32(y0)
        t = np.clip((px * dx + py * dy) / (dx * dx + dy * dy + np.float32(1e-9)), 0, 1)
        np.minimum(nearest, np.hypot(px - t * dx, py - t * dy), out=nearest)
    return nearest


def _curve(rng: Generator, site: _Site, length: float, bend: float) -> NDArray[np.float64]:
    """Return a cubic curve through the site as 24 points (x, y)."""
    angle = rng.uniform(0, 2 * pi)
    t = np.linspace(-0.5, 0.5, 24)
    u = length * t
    v = bend * length * (rng.normal() * (t * t - 0.08) * 2 + rng.normal() * (t**3) * 6)
    x = site.x + cos(angle) * u - sin(angle) * v
    y = site.y + sin(angle) * u + cos(angle) * v
    return np.stack([x, y], axis=1)


def _scratch(
    surface: Surface, rng: Generator, site: _Site, inside: Mask | None, beneath: Colour
) -> Array:
    del beneath
    line = _line_distance(surface, _curve(rng, site, 95 * site.scale, 0.10))
    width = 4.2 * site.scale * (1.0 + 0.25 * smooth_noise(rng, surface.size, 12))
    cover = _clipped(covered(line - width, 1.6), inside)
    strength = 0.45 + 0.55 * site.strength
    worn = cv2.GaussianBlur(surface.albedo, (0, 0), 3.0 / surface.step) * 1.2 + 0.12
    surface.paint(cover * strength, worn, gloss=0.12)
    level = cv2.GaussianBlur(surface.height, (0, 0), 3.0 / surface.step)
    groove = 5.0 * np.exp(-((line / width) ** 2)) - 1.6 * np.exp(-(((line - width) / 1.6) ** 2))
    surface.height += cover * strength * (level - surface.height)
    surface.height -= _clipped(groove * strength, inside)
    return cover


def _hole(
    surface: Surface, rng: Generator, site: _Site, inside: Mask | None, beneath: Colour
) -> Array:
    distance = _blob(surface, rng, site, 12.0, 1.6)
    cover = _clipped(covered(distance, 1.6), inside)
    strength = 0.4 + 0.6 * site.strength
    depth = float(np.percentile(surface.height, 5)) - 5.0
    surface.paint(cover * strength, beneath, gloss=0.0)
    surface.put(cover * strength, np.zeros_like(cover), depth)
    rim = np.exp(-(((distance - 1.5) / 2.2) ** 2))
    surface.height += _clipped(1.5 * strength * rim, inside)
    return np.maximum(cover, _clipped(covered(distance - 2.5), inside))


def _stain(
    surface: Surface, rng: Generator, site: _Site, inside: Mask | None, beneath: Colour
) -> Array:
    del beneath
    distance = _blob(surface, rng, site, 19.0, 3.0)
    cover = _clipped(covered(distance, 5.0), inside)
    rim = _clipped(np.exp(-(((distance + 2.0) / 2.5) ** 2)), inside)
    strength = 0.35 + 0.6 * site.strength
    tint, film = _LIQUIDS[rng.integers(len(_LIQUIDS))]
    soaked = 0.65 * np.clip(surface.albedo * single(tint), 0.0, 1.0) + 0.35 * single(film)
    surface.paint(np.clip(cover * (0.85 + 0.3 * rim), 0, 1) * strength, soaked, gloss=0.15)
    level = cv2.GaussianBlur(surface.height, (0, 0), 2.5 / surface.step)
    surface.height += 0.6 * strength * cover * (level - surface.height) + strength * rim
    return cover


def _thread(
    surface: Surface, rng: Generator, site: _Site, inside: Mask | None, beneath: Colour
) -> Array:
    del beneath
    line = _line_distance(surface, _curve(rng, site, 100 * site.scale, 0.42))
    radius = 2.7 * site.scale
    cover = _clipped(covered(line - radius), inside)
    strength = 0.5 + 0.5 * site.strength
    lift = float(np.percentile(surface.height, 90)) + 1.0
    profile = 1.4 * np.sqrt(np.clip(radius**2 - line**2, 0.0, None))
    surface.paint(cover * strength, ((0.30, 0.28, 0.24), (0.34, 0.17, 0.13))[rng.integers(2)])
    surface.put(cover, profile, lift)
    return cover


def _dent(
    surface: Surface, rng: Generator, site: _Site, inside: Mask | None, beneath: Colour
) -> Array:
    del beneath
    distance = _blob(surface, rng, site, 13.0, 0.8)
    radius = 13.0 * site.scale
    inward = np.clip(-distance / radius, 0.0, 1.0)
    strength = 0.35 + 0.65 * site.strength
    bowl = 7.5 * (1 - (1 - inward) ** 2) - 1.3 * np.exp(-(((distance - 1.0) / 2.0) ** 2))
    surface.height -= _clipped(strength * bowl, inside)
    return _clipped(covered(distance - 1.0), inside)


# tint of what is soaked and colour of the film on it: rusty water, coolant
_LIQUIDS = (((1.7, 0.8, 0.25), (0.36, 0.17, 0.04)), ((0.5, 1.15, 0.7), (0.10, 0.27, 0.16)))

_Flaw = Callable[[Surface, Generator, _Site, "Mask | None", Colour], Array]
_FLAWS: dict[str, _Flaw] = {
    "scratch": _scratch,
    "hole": _hole,
    "stain": _stain,
    "thread": _thread,
    "dent": _dent,
}
