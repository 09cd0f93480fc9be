"""Twelve small normal images, a bright disc on a dark ground each, as a data module."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample

SIZE = (64, 64)


def disc_image(number):
    rng = np.random.default_rng(number)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    disc = (y - 32) ** 2 + (x - 30 - number % 4) ** 2 < 22**2
    image = np.where(disc[..., None], 170, 25) + rng.integers(-15, 16, (*SIZE, 3))
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def datamodule(tmp_path_factory):
    root = tmp_path_factory.mktemp("normals")
    samples = []
    for number in range(12):
        path = root / f"{number:03d}.png"
        cv2.imwrite(str(path), disc_image(number))
        samples.append(Sample(path, 0, "disc", "good", "train", root=root))
    return DataModule(Splits(samples[:9], samples[9:], []), image_size=SIZE, batch_size=4)
