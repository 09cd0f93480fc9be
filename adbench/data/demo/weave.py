"""``weave``: a twill cloth of two yarns, photographed flat."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from numpy.random import Generator

from adbench.data.demo.flaws import Flawed, flaw
from adbench.data.demo.surface import Array, Colour, Surface, single, smooth_noise

DEFECTS = ("hole", "scratch", "stain", "thread")

_WARP: Colour = (0.10, 0.17, 0.33)
_WEFT: Colour = (0.42, 0.40, 0.34)
_PERIOD = 9.2  # between two yarns


def weave(size: int, rng: Generator, defect: str | None, difficulty: float) -> Flawed:
    """Return the cloth, with ``defect`` of ``DEFECTS`` where one is asked for."""
    surface = _cloth(size, rng)
    if defect is None:
        return Flawed.whole(surface)
    backing: Colour = (0.20, 0.22, 0.24)
    return flaw(surface, defect, rng, difficulty, inside=None, beneath=backing)


def _cloth(size: int, rng: Generator) -> Surface:
    surface = Surface.plain(size, _WARP)
    across, along = _yarn_coordinates(surface, rng)
    i, j = np.floor(across).astype(int), np.floor(along).astype(int)
    wave_warp = np.sin(pi / 2 * (along + i))
    wave_weft = -np.sin(pi / 2 * (across + j))
    warp = _round(across - i) + 0.75 * wave_warp
    weft = _round(along - j) + 0.75 * wave_weft
    top = warp > weft
    fibre_warp = smooth_noise(rng, size, (size // 8, size // 2))
    fibre_weft = smooth_noise(rng, size, (size // 2, size // 8))
    shade_warp = _yarn_shade(i, rng) + 0.07 * fibre_warp
    shade_weft = _yarn_shade(j, rng) + 0.07 * fibre_weft
    colour = np.where(top[..., None], single(_WARP), single(_WEFT))
    shade = np.where(top, shade_warp, shade_weft)
    surface.albedo = np.clip(colour * (1.0 + shade)[..., None], 0.01, 1).astype(np.float32)
    fibre = np.where(top, fibre_warp, fibre_weft)
    surface.height = (1.9 * np.maximum(warp, weft) + 0.12 * fibre).astype(np.float32)
    return surface


def _yarn_coordinates(surface: Surface, rng: Generator) -> tuple[Array, Array]:
    """Return positions across warp and weft in yarns: turned, shifted and gently drawn."""
    angle = rng.normal(0.0, 0.035)
    size = surface.size
    x = surface.x + 1.1 * smooth_noise(rng, size, 5)
    y = surface.y + 1.1 * smooth_noise(rng, size, 5)
    shift = rng.uniform(0, 64, 2)
    across = (cos(angle) * x + sin(angle) * y) / _PERIOD + shift[0]
    along = (cos(angle) * y - sin(angle) * x) / _PERIOD + shift[1]
    return across.astype(np.float32), along.astype(np.float32)


def _round(position: Array) -> Array:
    """Return the height of a yarn's round section at ``position`` 0..1 across it."""
    return np.sqrt(np.clip(1.0 - (1.94 * (position - 0.5)) ** 2, 0.0, 1.0))


def _yarn_shade(index: np.ndarray, rng: Generator) -> Array:
    return (0.09 * rng.standard_normal(512)).astype(np.float32)[index % 512]
