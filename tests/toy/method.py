"""A third party's method in a few lines: what the trainer promises is tested with it."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adbench.methods.base import AnomalyModule, Detector, Prediction, Requirements


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
