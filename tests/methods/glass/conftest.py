"""Small heads, features and a stand-in synthesizer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from adbench.backbones import FeatureExtractor
from adbench.data.batch import Batch
from adbench.methods.aggregation import Aggregation
from adbench.methods.discriminator import Head
from adbench.synthesis.base import Synthesizer, Synthetic


class Squares(Synthesizer):
    """Inverts a square somewhere in each image."""

    def prepare(self, datamodule):
        self.prepared = True

    def foreground_masks(self, index):
        return None

    def __call__(self, image, *, foreground=None, source=None, generator):
        mask = torch.zeros(len(image), 1, *image.shape[-2:], dtype=torch.bool)
        corner = torch.randint(0, image.shape[-1] - 16, (len(image), 2), generator=generator)
        for row, (y, x) in enumerate(corner.tolist()):
            mask[row, :, y : y + 16, x : x + 16] = True
        ones = torch.ones(len(image))
        return Synthetic(torch.where(mask, 1 - image, image), mask, ones, ones > 0)


class Normals:
    """A data module of random images, as much of it as a method reads."""

    def __init__(self, count=5, size=64, batch_size=2):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.rand(count, 3, size, size, generator=generator) * 0.2 + 0.4
        self.image_size = (size, size)
        self.batch_size = batch_size
        self.train_samples = [SimpleNamespace(category="x")] * count

    def batch(self, index):
        count = len(index)
        return Batch(
            image=self.images[index],
            label=torch.zeros(count, dtype=torch.long),
            index=torch.as_tensor(index),
            category=["x"] * count,
            defect=["good"] * count,
            path=[f"{i}.png" for i in index],
        )

    def train_batches(self, batch_size=None):
        size = batch_size or self.batch_size
        for start in range(0, len(self.images), size):
            yield self.batch(list(range(start, min(start + size, len(self.images)))))


@pytest.fixture
def squares():
    return Squares()


@pytest.fixture
def normals():
    return Normals()


@pytest.fixture(scope="session")
def extractor():
    torch.manual_seed(3)
    return FeatureExtractor(name="resnet18", layers=["layer2", "layer3"])


@pytest.fixture
def small():
    """Return a function: seed -> (head, normal features, LAS features), float64."""

    def make(seed=0, hidden=16, width=24, adaptor=True):
        torch.manual_seed(seed)
        head = Head(width, hidden, adaptor=adaptor).double().train()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        aggregation = Aggregation([8, 16], 3, width)
        features = [
            aggregation([torch.randn(2, 8, 6, 6).double(), torch.randn(2, 16, 3, 3).double()])
            for _ in range(2)
        ]
        return head, *features

    return make
