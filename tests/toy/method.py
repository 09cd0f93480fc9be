"""A third party's methods in a few lines: what the trainer promises is tested with them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from adbench.methods.base import AnomalyModule, Detector, Prediction, Requirements
from adbench.runs.stages import Stage


class ToyDetector(Detector):
    """Squared difference between an image and its reconstruction by two convolutions."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.config = {"width": width}
        self.down = nn.Conv2d(3, width, 4, 4)
        self.up = nn.ConvTranspose2d(width, 3, 4, 4)

    def forward(self, image: Tensor) -> Prediction:
        size = image.shape[-2:]
        made = functional.interpolate(self.up(torch.relu(self.down(image))), size=size)
        error = (made - image).square().mean(1, keepdim=True)
        return Prediction(error.amax((1, 2, 3)), error)


class ToyModule(AnomalyModule):
    """Reconstruction with noise on the input, Adam."""

    def __init__(self, *, backbone, synthesis, image_size, seed, width=4, noise=0.1):
        super().__init__()
        self.seed, self.noise = seed, noise
        # a test's wish, not a key: the run that is killed and the one that resumes are one
        self.die_at = int(os.environ.get("TOY_DIES_AT", -1))
        self.synthesis = synthesis
        self.detector = ToyDetector(width)

    def requirements(self, train_images):
        return Requirements(size_multiple=8, min_size=16)

    def training_step(self, batch, batch_idx):
        noise = torch.randn(batch.image.shape, generator=self.generator(batch_idx))
        noisy = batch.image + self.noise * noise
        made = self.detector.up(torch.relu(self.detector.down(noisy)))
        loss = functional.mse_loss(made, batch.image)
        if self.global_step == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": loss, "mean": made.mean().detach()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class StagedToyModule(ToyModule):
    """The same after a stage that takes a while and keeps what it did in its scratch folder."""

    def stages(self):
        return [Stage("count", self._count, config={"seed": self.seed})]

    def _count(self, context):
        images = len(context.datamodule.train_samples)
        for number in range(8):
            part = context.scratch / f"{number}.txt"
            if not part.exists():
                time.sleep(float(os.environ.get("TOY_STAGE_SECONDS", 0)) / 8)
                part.write_text(str(images))
        (context.folder / "count.txt").write_text(str(images * 8))

    def prepare(self, datamodule):
        self.noise = self.noise * int((self.stage_folder / "count" / "count.txt").read_text()) / 80


class PeepingToyModule(ToyModule):
    """Looks at the test pictures beside its training pictures before the test phase."""

    def __init__(self, *, backbone, synthesis, image_size, seed, how="pil", silent=False):
        super().__init__(backbone=backbone, synthesis=synthesis, image_size=image_size, seed=seed)
        self.how, self.silent = how, silent

    def prepare(self, datamodule):
        train = Path(datamodule.train_samples[0].image)
        found = sorted((train.parents[2] / "test").rglob("*.png"))[-1]
        try:
            OPENINGS[self.how](found)
        except Exception:
            if not self.silent:
                raise


def _by_pil(path):
    from PIL import Image

    Image.open(path).load()


def _by_opencv(path):
    import cv2

    cv2.imread(str(path))


def _by_link(path):
    link = path.parents[3] / "innocent.bin"
    if not link.exists():
        link.symlink_to(path)
    link.read_bytes()


OPENINGS = {
    "pil": _by_pil,
    "opencv": _by_opencv,
    "link": _by_link,
    "descriptor": lambda path: os.close(os.open(path, os.O_RDONLY)),
    "numpy": lambda path: __import__("numpy").fromfile(path, dtype="uint8"),
}
