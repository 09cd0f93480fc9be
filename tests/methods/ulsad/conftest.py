"""Small data, a narrow detector and the judges' arrays for the ULSAD tests."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample
from adbench.methods.ulsad.module import UlsadModule

SIZE = (256, 256)
NARROW = {
    "channels": 24,
    "frn": {"mid": 32},
    "autoencoder": {"narrow": 4, "wide": 8},
}


@pytest.fixture(scope="session")
def judge(shared):
    """Read one file of the ULSAD judges as tensors."""

    def read(name):
        with np.load(shared / "judges" / "methods" / "ulsad" / f"{name}.npz") as arrays:
            return {k: torch.from_numpy(arrays[k]) for k in arrays if arrays[k].dtype.kind == "f"}

    return read


@pytest.fixture(scope="session")
def backbone():
    torch.manual_seed(0)
    return FeatureExtractor(name="resnet18", layers=["layer2", "layer3"])


def normals(folder, split, count, seed):
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        small = rng.integers(60, 160, (5, 5, 3), dtype=np.uint8)
        path = folder / f"{split}{number:03d}.png"
        cv2.imwrite(str(path), cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))
        samples.append(Sample(path, 0, "thing", "good", split, root=folder))
    return samples


@pytest.fixture(scope="session")
def datamodule(tmp_path_factory):
    """Nine training and three held-out normals: the last batch of four holds one image."""
    folder = tmp_path_factory.mktemp("normals")
    train, val = normals(folder, "train", 9, 0), normals(folder, "val", 3, 1)
    return DataModule(Splits(train, val, []), image_size=SIZE, batch_size=4)


@pytest.fixture(scope="session")
def build(backbone):
    """Return a function that builds a narrow module with equal weights each time."""

    def built(**keys):
        torch.manual_seed(1)
        merged = {**NARROW, **keys}
        return UlsadModule(backbone=backbone, synthesis=None, image_size=SIZE, seed=0, **merged)

    return built
