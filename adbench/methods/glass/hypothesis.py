"""Manifold or hypersphere: the spectrum of the mean training image decides (Appendix B.2)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adbench.runs.pictures import write_png

SIDE = 289
BLUR = 39
LEVEL = 170.0
DENSITY, RADIUS, COUNT = 0.21, 12.0, 60


class Verdict(NamedTuple):
    """Outcome of the judgement.

    Attributes:
        hypersphere: True for GLASS-h, False for GLASS-m.
        points: number of bright points of the spectrum.
        radius: their largest distance from its centre.
        box_density, disc_density: bright points per area of their bounding box and disc.
        image: [289, 289, 3] uint8 BGR, what was judged.
        magnitude: [289, 289] 20 ln|F| of its blurred grey, -inf where F is 0.
    """

    hypersphere: bool
    points: int
    radius: float
    box_density: float
    disc_density: float
    image: NDArray[np.uint8]
    magnitude: NDArray[np.float64]

    @property
    def spectrum(self) -> NDArray[np.bool_]:
        """[289, 289], the bright points."""
        return self.magnitude > LEVEL

    @property
    def hypothesis(self) -> str:
        """``hypersphere`` or ``manifold``."""
        return "hypersphere" if self.hypersphere else "manifold"


def mean_image(batches: Iterable[Tensor]) -> NDArray[np.uint8]:
    """Return the mean of batches [B, 3, H, W] in 0..1 as BGR [H, W, 3], truncated to uint8."""
    means = [batch.double().mean(0) for batch in batches]
    mean = sum(means[1:], start=means[0]) / len(means)
    pixels = (mean * 255 + 1e-6).clamp(0, 255).permute(1, 2, 0).cpu().numpy()
    return np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint8)


def judge(image: NDArray[np.uint8]) -> Verdict:
    """Return the verdict on a mean training image [H, W, 3], BGR uint8."""
    resized = np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.uint8)
    magnitude = log_spectrum(image)
    rows, columns = np.nonzero(magnitude > LEVEL)
    centre = SIDE // 2
    dy, dx = np.abs(rows - centre), np.abs(columns - centre)
    count = len(rows)
    if count == 0:
        return Verdict(False, 0, 0.0, 0.0, 0.0, resized, magnitude)
    radius = float(np.hypot(dy, dx).max())
    box = count / (4 * max(int(dx.max()), 1) * max(int(dy.max()), 1))
    disc = count / _points_within(radius)
    dense = box > DENSITY or disc > DENSITY
    found = bool(dense and radius > RADIUS and count > COUNT)
    return Verdict(found, count, radius, box, disc, resized, magnitude)


def log_spectrum(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return [289, 289]: 20 ln|F| of the blurred grey image, its origin in the middle."""
    resized = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    grey = cv2.blur(cv2.cvtColor(resized, cv2.COLOR_BGR2GRAY), (BLUR, BLUR))
    magnitude = np.abs(np.fft.fftshift(np.fft.fft2(grey)))
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log(magnitude))


def _points_within(radius: float) -> int:
    grid = np.arange(2 * SIDE) - SIDE
    return int((grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2).sum())


def verdict_sheet(verdict: Verdict) -> NDArray[np.uint8]:
    """Return [289, 867, 3] RGB: mean image, grey spectrum, bright points (Figure S5)."""
    top = max(float(verdict.magnitude.max()), LEVEL)
    grey = (verdict.magnitude.clip(0, top) / top * 255).astype(np.uint8)
    bright = verdict.spectrum.astype(np.uint8) * 255
    mean = cv2.cvtColor(verdict.image, cv2.COLOR_BGR2RGB)
    panels = [mean, *(np.repeat(x[..., None], 3, axis=2) for x in (grey, bright))]
    return np.hstack(panels)


def write_verdict(verdict: Verdict, folder: Path) -> None:
    """Write hypothesis.png (see ``verdict_sheet``) and hypothesis.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / "hypothesis.png", verdict_sheet(verdict))
    text = (
        f"{verdict.hypothesis}: {verdict.points} bright points within radius {verdict.radius:.1f}, "
        f"density {verdict.box_density:.3f} of their box and {verdict.disc_density:.3f} of their "
        f"disc\nhypersphere if a density exceeds {DENSITY}, the radius {RADIUS:.0f} "
        f"and the count {COUNT}\n"
    )
    (folder / "hypothesis.txt").write_text(text, encoding="utf-8")
