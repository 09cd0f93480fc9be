"""Small data, features, synthesizer and diffusion for the GLAD tests."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.methods.glad.module import GladModule
from adbench.runs.stages import run_stages
from adbench.synthesis.base import Synthesizer, Synthetic

SIZE = (32, 32)


class Squares(Synthesizer):
    """Pastes one inverted square per image; always damages."""

    side = 10

    def __call__(self, image, *, foreground=None, source=None, generator):
        batch, _, height, width = image.shape
        corner = torch.randint(0, height - self.side, (batch, 2), generator=generator)
        mask = torch.zeros(batch, 1, height, width, dtype=torch.bool)
        for row, (y, x) in enumerate(corner.tolist()):
            mask[row, :, y : y + self.side, x : x + self.side] = True
        made = torch.where(mask, 1 - image, image)
        return Synthetic(made, mask, torch.ones(batch), torch.ones(batch, dtype=torch.bool))


def pictures(folder, count, seed, category="thing", split="train"):
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        small = rng.integers(60, 160, (3, 3, 3), dtype=np.uint8)
        path = folder / f"{category}{split}{number:03d}.png"
        cv2.imwrite(str(path), cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))
        samples.append(Sample(path, 0, category, "good", split, root=folder))
    return samples


@pytest.fixture(scope="session")
def datamodule(tmp_path_factory):
    """Eight smooth normal images of 32 px, four held out."""
    folder = tmp_path_factory.mktemp("normals")
    train, held = pictures(folder, 8, 0), pictures(folder, 4, 1, split="val")
    return DataModule(Splits(train, held, []), image_size=SIZE, batch_size=4)


@pytest.fixture(scope="session")
def backbone():
    torch.manual_seed(0)
    return FeatureExtractor(name="resnet18", layers=["layer1", "layer2"])


def diffusion(kind="pca", **more):
    torch.manual_seed(0)
    return ScratchDiffusion(
        autoencoder={"kind": kind, "channels": 8, "widths": [8, 8], "steps": 2, "batch_size": 2},
        network={"widths": [8, 8], "attention": [], "head": 8},
        **more,
    )


def glad(backbone, kind="pca", model=None, **keys):
    """An untrained module."""
    values = {"steps": 5, "start": 500, "stop": 200, **keys}
    return GladModule(
        backbone=backbone,
        synthesis=Squares(),
        diffusion=model or diffusion(kind),
        image_size=SIZE,
        seed=0,
        **values,
    )


def prepared(module, datamodule, folder=None):
    """Run stages and preparation; give the network something to say."""
    if folder is not None:
        module.stage_folder = folder
        run_stages(module.stages(), folder, datamodule, say=lambda line: None)
    module.prepare(datamodule)
    torch.manual_seed(3)
    for network in {module.network, module.diffusion.network}:
        torch.nn.init.normal_(network.conv_out.weight, std=0.2)
    return module.eval()
