"""Small data, backbone and synthesizer for the RealNet tests."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample
from adbench.synthesis.base import Synthesizer, Synthetic

SIZE = (64, 64)


class Squares(Synthesizer):
    """Pastes one inverted square per image; always damages."""

    side = 24

    def prepare(self, datamodule):
        pass

    def foreground_masks(self, index):
        return None

    def __call__(self, image, *, foreground=None, source=None, generator):
        batch, _, height, width = image.shape
        corner = torch.randint(0, height - self.side, (batch, 2), generator=generator)
        mask = torch.zeros(batch, 1, height, width, dtype=torch.bool)
        for row, (y, x) in enumerate(corner.tolist()):
            mask[row, :, y : y + self.side, x : x + self.side] = True
        made = torch.where(mask, 1 - image, image)
        return Synthetic(made, mask, torch.ones(batch), torch.ones(batch, dtype=torch.bool))


@pytest.fixture(scope="session")
def synthesis():
    return Squares()


@pytest.fixture(scope="session")
def backbone():
    torch.manual_seed(0)
    return FeatureExtractor(name="resnet18", layers=["layer1", "layer2", "layer3"])


@pytest.fixture(scope="session")
def datamodule(tmp_path_factory):
    """Ten smooth normal images of 64 px."""
    folder = tmp_path_factory.mktemp("normals")
    rng = np.random.default_rng(0)
    samples = []
    for number in range(10):
        small = rng.integers(60, 160, (5, 5, 3), dtype=np.uint8)
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))
        samples.append(Sample(path, 0, "thing", "good", "train", root=folder))
    return DataModule(Splits(samples, [], []), image_size=SIZE, batch_size=4)
