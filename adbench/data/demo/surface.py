"""A surface (albedo, relief, gloss) and the camera that photographs it.

Lengths are in units of 1/256 of the picture's side, so that every picture looks the same at any
size; arrays are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]

SIDE = 256.0


def single(values: ArrayLike) -> Array:
    """Return values as a float32 array."""
    return np.asarray(values, dtype=np.float32)


@dataclass(slots=True)
class Surface:
    """What lies under the camera.

    Attributes:
        albedo: [S, S, 3] RGB in 0..1, linear light.
        height: [S, S] relief, unbounded, in units of 1/256 of the side.
        gloss: [S, S] weight of mirror-like reflection, 0..1.
        x, y: [S, S] positions in 0..256.
    """

    albedo: Array
    height: Array
    gloss: Array
    x: Array
    y: Array

    @classmethod
    def plain(cls, size: int, colour: Colour, gloss: float = 0.0) -> Surface:
        """Return a flat surface of one colour, [size, size]."""
        axis = ((np.arange(size, dtype=np.float32) + 0.5) * (SIDE / size)).astype(np.float32)
        x, y = np.meshgrid(axis, axis)
        albedo = np.broadcast_to(single(colour), (size, size, 3)).copy()
        shape = (size, size)
        return cls(albedo, np.zeros(shape, np.float32), np.full(shape, gloss, np.float32), x, y)

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.height.shape[0])

    @property
    def step(self) -> float:
        """Side of a pixel in surface units."""
        return SIDE / self.size

    def window(self, x: float, y: float, reach: float) -> Surface:
        """Return a view of the square within ``reach`` of (x, y); writing to it writes here."""
        rows = _span(y, reach, self)
        columns = _span(x, reach, self)
        part = (rows, columns)
        return Surface(
            self.albedo[part], self.height[part], self.gloss[part], self.x[part], self.y[part]
        )

    def paint(self, cover: Array, colour: Colour | Array, gloss: float | None = None) -> None:
        """Lay a colour over the surface where ``cover`` [S, S] is 1, mixing below 1."""
        self.albedo += cover[..., None] * (single(colour) - self.albedo)
        if gloss is not None:
            self.gloss += cover * (gloss - self.gloss)

    def put(self, cover: Array, profile: Array, lift: float) -> None:
        """Set the relief to ``lift + profile`` where ``cover`` is 1, mixing below 1."""
        self.height += cover * (lift + profile - self.height)


def _span(centre: float, reach: float, surface: Surface) -> slice:
    low = int((centre - reach) / surface.step)
    high = int((centre + reach) / surface.step) + 2
    return slice(max(low, 0), max(min(high, surface.size), 0))


def covered(distance: Array, soft: float = 1.0) -> Array:
    """Return 1 inside, 0 outside of a shape given by its signed distance, ``soft`` wide."""
    return np.clip(0.5 - distance / soft, 0.0, 1.0, dtype=np.float32)


def smooth_noise(rng: Generator, size: int, cells: int | tuple[int, int]) -> Array:
    """Return noise [size, size] of unit variance whose bumps number ``cells`` (rows, columns)."""
    rows, columns = (cells, cells) if isinstance(cells, int) else cells
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    fine = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine / (fine.std() + 1e-6), dtype=np.float32)


def photograph(surface: Surface, rng: Generator) -> NDArray[np.uint8]:
    """Return the picture uint8 [S, S, 3] under a lamp and a camera that vary a little.

    Lambert and Blinn-Phong shading, cast shadows, uneven light, vignetting, white balance,
    exposure, defocus and sensor noise.
    """
    azimuth = rng.normal(-2.2, 0.12)
    direction = single([cos(azimuth) * 0.62, sin(azimuth) * 0.62, 0.78])
    diffuse, mirror = _reflections(surface, direction)
    shadow = _shadow(surface, azimuth)
    light = (0.30 + 0.98 * diffuse * shadow) * _uneven_light(surface, rng)
    linear = surface.albedo * light[..., None] + (mirror * surface.gloss * shadow)[..., None]
    return _exposed(linear, surface, rng)


def _reflections(surface: Surface, direction: Array) -> tuple[Array, Array]:
    slope_y, slope_x = np.gradient(surface.height, surface.step)
    length = np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    along = -slope_x * direction[0] - slope_y * direction[1]
    diffuse = np.clip((along + direction[2]) / length, 0.0, None)
    half = direction + single([0.0, 0.0, 1.0])
    half = half / np.linalg.norm(half)
    facing = (-slope_x * half[0] - slope_y * half[1] + half[2]) / length
    return diffuse, np.clip(facing, 0.0, 1.0) ** 40


def _shadow(surface: Surface, azimuth: float) -> Array:
    """Return 0.45..1: darker where something higher stands towards the lamp."""
    blocked = np.zeros_like(surface.height)
    for distance in (3.0, 6.0, 10.0):
        shift = single(
            [[1, 0, -cos(azimuth) * distance / surface.step],
             [0, 1, -sin(azimuth) * distance / surface.step]]
        )  # fmt: skip
        above = cv2.warpAffine(
            surface.height, shift, surface.height.shape[::-1], borderMode=cv2.BORDER_REPLICATE
        )
        np.maximum(blocked, above - surface.height - 0.9 * distance, out=blocked)
    soft = cv2.GaussianBlur(np.clip(blocked / 3.0, 0.0, 1.0), (0, 0), 1.6 / surface.step)
    return np.asarray(1.0 - 0.6 * soft, dtype=np.float32)


def _uneven_light(surface: Surface, rng: Generator) -> Array:
    angle = rng.uniform(0, 2 * pi)
    x, y = surface.x / SIDE - 0.5, surface.y / SIDE - 0.5
    slope = rng.uniform(0.0, 0.3) * (cos(angle) * x + sin(angle) * y)
    vignette = 1.0 - 0.22 * (x * x + y * y)
    return np.asarray((1.0 + slope) * vignette * rng.uniform(0.88, 1.12), dtype=np.float32)


def _exposed(linear: Array, surface: Surface, rng: Generator) -> NDArray[np.uint8]:
    balance = rng.normal(1.0, 0.015, 3).astype(np.float32)
    sharp = cv2.GaussianBlur(linear * balance, (0, 0), rng.uniform(0.5, 0.7) / surface.step)
    tone = np.clip(sharp, 0.0, None)
    tone = tone / (1.0 + 0.18 * tone)  # highlights roll off
    noise = rng.standard_normal(tone.shape, dtype=np.float32)
    tone = np.clip(tone + 0.012 * np.sqrt(tone + 0.02) * noise, 0.0, 1.0)
    return np.asarray(np.rint(255.0 * tone ** (1 / 2.2)), dtype=np.uint8)
