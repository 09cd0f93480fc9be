"""A method: two convolutions learn to find what a synthesizer put into good pictures."""

import torch
from torch import nn
from torch.nn import functional

from adbench import AnomalyModule, Detector, Prediction, Requirements


class DotsDetector(Detector):
    """Everything inference needs: built from ``config`` alone, its tensors in ``state_dict``."""

    def __init__(self, width=8):
        super().__init__()
        self.config = {"width": width}
        self.network = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2), nn.ReLU(), nn.Conv2d(width, 1, 5, padding=2)
        )

    def forward(self, image):  # [B, 3, H, W] in 0..1, any size
        found = self.network(image)
        return Prediction(found.amax((1, 2, 3)), found)  # score [B], map [B, 1, H, W], both raw


class DotsModule(AnomalyModule):
    """Its training. Keys after ``seed`` are those of conf/model/dots.yaml."""

    def __init__(self, *, backbone, synthesis, image_size, seed, width=8, rate=0.01):
        super().__init__()
        self.seed, self.synthesis, self.rate = seed, synthesis, rate
        self.detector = DotsDetector(width)

    def requirements(self, train_images):
        return Requirements(uses_synthesis=True)

    def prepare(self, datamodule):
        self.synthesis.prepare(datamodule)

    def training_step(self, batch, batch_idx):
        # every draw of a step comes from this generator: a resumed run repeats it
        made = self.synthesis(batch.image, generator=self.generator(batch_idx))
        said = self.detector(made.image).anomaly_map
        loss = functional.binary_cross_entropy_with_logits(said, made.mask.float())
        return {"loss": loss, "found": said[made.mask].mean().detach()}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.rate)
