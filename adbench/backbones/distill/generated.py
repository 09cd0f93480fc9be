"""Pictures made from formulas, for training features without photographs.

Every function takes a numpy Generator and a side and returns uint8 [side, side, 3] RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
_ALPHABET = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz0123456789#%&+*")


def _stretched(values: NDArray[np.floating]) -> Picture:
    low, high = np.quantile(values, (0.01, 0.99))
    scaled = (values - low) / max(high - low, 1e-9)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def _coloured(rng: Generator, planes: NDArray[np.floating]) -> Picture:
    """Mix planes [side, side, k] into three channels with a drawn contrast and brightness."""
    weak = rng.random() < 0.5  # most inspected surfaces are nearly of one colour
    mix = rng.normal(size=(planes.shape[2], 3)) * (0.15 if weak else 0.6) + 1.0 * (weak or 0.3)
    mixed = planes @ mix
    contrast, base = rng.uniform(20, 110), rng.uniform(60, 200, 3 if not weak else 1)
    tinted = (mixed / (mixed.std() + 1e-9)) * contrast / 2 + base
    return np.asarray(np.clip(tinted, 0, 255), dtype=np.uint8)


def noise(rng: Generator, side: int) -> Picture:
    """1/f noise in colour, isotropic or drawn out in one direction."""
    exponent = rng.uniform(0.6, 2.6)
    fy = np.fft.fftfreq(side)[:, None] * np.exp(rng.normal() * 0.7)
    fx = np.fft.rfftfreq(side)[None, :]
    turn = rng.uniform(0, np.pi)
    ay, ax = np.cos(turn) * fy + np.sin(turn) * fx, np.cos(turn) * fx - np.sin(turn) * fy
    radius = np.maximum(np.hypot(ay, ax * np.exp(rng.normal() * 0.5)), 1 / side)
    planes = []
    for _ in range(3):
        phase = rng.uniform(0, 2 * np.pi, radius.shape)
        planes.append(np.fft.irfft2(np.exp(1j * phase) / radius**exponent, s=(side, side)))
    stack = np.stack([plane / (plane.std() + 1e-9) for plane in planes], -1)
    if rng.random() < 0.25:  # ridges and blobs
        stack = np.abs(stack) if rng.random() < 0.5 else np.tanh(4 * stack)
    return _coloured(rng, stack)


def _grid(side: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    y, x = np.mgrid[:side, :side].astype(np.float64)
    return y, x


def _warped(rng: Generator, side: int, amount: float) -> tuple[NDArray[np.float64], ...]:
    y, x = _grid(side)
    bend = [cv2.resize(rng.normal(size=(5, 5)), (side, side), interpolation=cv2.INTER_CUBIC)]
    bend.append(cv2.resize(rng.normal(size=(5, 5)), (side, side), interpolation=cv2.INTER_CUBIC))
    return y + amount * bend[0], x + amount * bend[1]


def periodic(rng: Generator, side: int) -> Picture:
    """Gratings, weaves and checks, slightly bent."""
    y, x = _warped(rng, side, rng.uniform(0, 6))
    turn = rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    wave_u, wave_v = 2 * np.pi / rng.uniform(4, 40), 2 * np.pi / rng.uniform(4, 40)
    kind = rng.integers(4)
    a, b = np.sin(wave_u * u), np.sin(wave_v * v)
    if kind == 0:
        base = a + b * rng.uniform(0, 1)
    elif kind == 1:  # over and under
        base = np.where((np.sin(wave_u * u / 2) * np.sin(wave_v * v / 2)) > 0, a, b)
    elif kind == 2:
        base = np.tanh(rng.uniform(1, 8) * a * b)
    else:
        base = np.maximum(a, b) ** 3
    fine = rng.normal(size=(side, side, 3)) * rng.uniform(0.02, 0.5)
    return _coloured(rng, np.repeat(base[..., None], 3, -1) + fine)


def _polygon(rng: Generator, side: int, size: float) -> NDArray[np.int32]:
    corners = int(rng.integers(3, 9))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = size * rng.uniform(0.5, 1.0, corners)
    centre = rng.uniform(0, side, 2)
    points = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.asarray(points, dtype=np.int32)


def _shape_mask(rng: Generator, side: int, size: float) -> NDArray[np.uint8]:
    mask = np.zeros((side, side), np.uint8)
    centre = tuple(int(v) for v in rng.uniform(0, side, 2))
    kind = rng.integers(4)
    if kind == 0:
        axes = (max(int(size), 1), max(int(size * rng.uniform(0.2, 1)), 1))
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
    elif kind == 1:
        cv2.fillPoly(mask, [_polygon(rng, side, size)], 255)
    elif kind == 2:
        box = (centre, (size * 2, size * rng.uniform(0.2, 2)), float(rng.uniform(0, 180)))
        cv2.fillPoly(mask, [cv2.boxPoints(box).astype(np.int32)], 255)
    else:
        width = max(int(size * rng.uniform(0.1, 0.6)), 1)
        cv2.circle(mask, centre, max(int(size), 1), 255, width)
    return mask


def _texture(rng: Generator, side: int) -> Picture:
    return (noise, periodic)[int(rng.random() < 0.4)](rng, side)


def dead_leaves(rng: Generator, side: int) -> Picture:
    """Textured shapes that cover one another, sizes by a power law."""
    canvas = _texture(rng, side)
    sources = [_texture(rng, side) for _ in range(3)]
    for _ in range(int(rng.integers(8, 60))):
        size = side * 0.25 / rng.uniform(1, 14) ** 0.9
        mask = _shape_mask(rng, side, size) > 0
        if rng.random() < 0.5:
            source = sources[rng.integers(3)]
            canvas[mask] = np.roll(source, rng.integers(0, side, 2), (0, 1))[mask]
        else:
            canvas[mask] = rng.integers(0, 256, 3)
    return canvas


def strokes(rng: Generator, side: int) -> Picture:
    """Lines, arcs and glyphs on a texture or a plain ground."""
    plain = np.full((side, side, 3), rng.integers(20, 240, 3), np.uint8)
    canvas = _texture(rng, side) if rng.random() < 0.6 else plain
    for _ in range(int(rng.integers(4, 40))):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        width = int(rng.integers(1, 6))
        a, b = (tuple(int(v) for v in rng.uniform(0, side, 2)) for _ in range(2))
        kind = rng.integers(3)
        if kind == 0:
            cv2.line(canvas, a, b, colour, width, cv2.LINE_AA)
        elif kind == 1:
            axes = tuple(int(v) for v in rng.uniform(4, side / 3, 2))
            start = float(rng.uniform(0, 360))
            end = start + float(rng.uniform(30, 300))
            cv2.ellipse(canvas, a, axes, float(rng.uniform(0, 180)), start, end, colour, width)
        else:
            text = "".join(rng.choice(_ALPHABET, int(rng.integers(1, 8))))
            font = int(rng.integers(8))
            scale = float(rng.uniform(0.4, 3))
            cv2.putText(canvas, text, a, font, scale, colour, width, cv2.LINE_AA)
    return canvas


Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def contractions(rng: Generator) -> Affine:
    """Return matrices [k, 2, 2] and shifts [k, 2] of two to five contracting affine maps."""
    count = int(rng.integers(2, 6))
    matrices = rng.uniform(-1, 1, (count, 2, 2))
    for matrix in matrices:
        matrix /= max(np.linalg.norm(matrix, 2) / rng.uniform(0.4, 0.9), 1e-9)
    return matrices, rng.uniform(-1, 1, (count, 2))


def coloured_density(
    rng: Generator, matrices: NDArray[np.float64], shifts: NDArray[np.float64], side: int
) -> Picture:
    """Return the density of the iterated function system's attractor, in a drawn colour."""
    points = rng.uniform(-1, 1, (4000, 2))
    visited = []
    for turn in range(30):
        choice = rng.integers(len(matrices), size=len(points))
        points = np.einsum("nij,nj->ni", matrices[choice], points) + shifts[choice]
        if turn >= 6:
            visited.append(points)
    cloud = np.concatenate(visited)
    low, high = np.quantile(cloud, (0.01, 0.99), axis=0)
    scaled = (cloud - low) / (high - low + 1e-9)
    density, _, _ = np.histogram2d(scaled[:, 0], scaled[:, 1], side, ((-0.1, 1.1), (-0.1, 1.1)))
    shade = np.log1p(cv2.GaussianBlur(density, (3, 3), 0))
    return _stretched(shade[..., None] * rng.normal(size=3) + rng.normal(size=3) * 0.1)


def fractal(rng: Generator, side: int) -> Picture:
    """Density of a random iterated function system."""
    return coloured_density(rng, *contractions(rng), side)


def rendered_object(rng: Generator, side: int) -> Picture:
    """One to three smooth, shaded bodies on a nearly plain ground, with prints and specks."""
    ground = np.full((side, side, 3), rng.uniform(5, 250, 3 if rng.random() < 0.5 else 1))
    canvas = ground + rng.normal(size=(side, side, 1)) * rng.uniform(0, 8)
    light = rng.normal(size=3) + np.array([0, 0, 1.5])
    light /= np.linalg.norm(light)
    for _ in range(int(rng.integers(1, 4))):
        canvas = _with_body(rng, canvas, light)
    return _marked(rng, np.ascontiguousarray(np.clip(canvas, 0, 255), dtype=np.uint8))


def _with_body(
    rng: Generator, canvas: NDArray[np.float64], light: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the canvas with one domed body under ``light``, matt to glossy."""
    side = len(canvas)
    mask = _shape_mask(rng, side, side * rng.uniform(0.12, 0.45))
    height = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    if height.max() < 2:
        return canvas
    dome = np.sqrt(1 - (1 - np.clip(height / (height.max() * rng.uniform(0.2, 1)), 0, 1)) ** 2)
    dome = cv2.GaussianBlur(dome * height.max() * rng.uniform(0.2, 0.8), (0, 0), 1.5)
    gy, gx = np.gradient(dome)
    normal = np.stack([-gx, -gy, np.ones_like(gx)], -1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip(normal @ light, 0, 1)[..., None]
    gloss = diffuse ** rng.uniform(8, 60) * rng.uniform(0, 160)
    skin = rng.uniform(30, 255, 3)
    grain = _texture(rng, side).astype(np.float64) - 128
    body = skin * (0.25 + 0.75 * diffuse) + gloss + grain * rng.uniform(0, 0.35)
    soft = cv2.GaussianBlur(mask, (0, 0), 0.8)[..., None] / 255.0
    return np.asarray(canvas * (1 - soft) + body * soft)


def _marked(rng: Generator, canvas: Picture) -> Picture:
    """Return the canvas with specks and sometimes a print."""
    side = len(canvas)
    for _ in range(int(rng.integers(0, 30))):
        centre = tuple(int(v) for v in rng.uniform(0, side, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.circle(canvas, centre, int(rng.integers(1, 4)), colour, -1, cv2.LINE_AA)
    if rng.random() < 0.4:
        text = "".join(rng.choice(_ALPHABET, int(rng.integers(2, 6))))
        where = tuple(int(v) for v in rng.uniform(side * 0.1, side * 0.7, 2))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        scale = float(rng.uniform(0.8, 3))
        cv2.putText(canvas, text, where, int(rng.integers(8)), scale, colour, 3, cv2.LINE_AA)
    return canvas


def clutter(rng: Generator, side: int) -> Picture:
    """Two of the other pictures, joined along a soft random border."""
    makers = (noise, periodic, dead_leaves, strokes, rendered_object)
    first, second = (makers[i](rng, side) for i in rng.integers(len(makers), size=2))
    field = cv2.resize(rng.normal(size=(4, 4)), (side, side), interpolation=cv2.INTER_CUBIC)
    share = 1 / (1 + np.exp(-field * rng.uniform(3, 30)))[..., None]
    return np.asarray(first * share + second * (1 - share), dtype=np.uint8)


MAKERS: dict[str, tuple[Callable[[Generator, int], Picture], float]] = {
    "noise": (noise, 0.14),
    "periodic": (periodic, 0.12),
    "dead_leaves": (dead_leaves, 0.2),
    "strokes": (strokes, 0.14),
    "fractal": (fractal, 0.06),
    "rendered_object": (rendered_object, 0.24),
    "clutter": (clutter, 0.1),
}


def generated_picture(seed: int, number: int, side: int) -> Picture:
    """Return picture ``number`` of the endless series ``seed``: kind, content and light drawn."""
    rng = np.random.default_rng([seed, number])
    names = list(MAKERS)
    kind = names[rng.choice(len(names), p=[MAKERS[name][1] for name in names])]
    picture: NDArray[Any] = MAKERS[kind][0](rng, side).astype(np.float32)
    light = cv2.resize(rng.normal(size=(3, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    picture *= 1 + rng.uniform(0, 0.25) * light[..., None].astype(np.float32)
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.6)))
    picture += rng.normal(size=picture.shape).astype(np.float32) * rng.uniform(0, 6)
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
