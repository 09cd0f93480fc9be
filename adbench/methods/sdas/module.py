"""Training of SDAS: a class-conditional diffusion model of normal images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.diffusion.adm import AdmNetwork, with_classes
from adbench.diffusion.ema import update_average
from adbench.diffusion.fitting import resized, training_loss
from adbench.diffusion.openai import load_openai
from adbench.diffusion.pool import PoolKeys, make_pool
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.sdas.detector import SdasDetector
from adbench.synthesis.base import Synthesizer

_LABELS, _SHEET = 0x1ABE1, 0x5BEE7
SHEET_STRENGTHS = (0.0, 0.1, 0.2, 0.5)


class SdasModule(AnomalyModule):
    """SDAS around its detector, whose network is the moving average of the trained one.

    Args:
        backbone, synthesis: not used; images are modelled as they are.
        image_size: (height, width) of the batches.
        seed: fixes weights and draws.
        network: ``preset`` of the ADM network and what differs from it.
        size: side of the images that are modelled; None takes ``image_size``.
        weights: checkpoint in OpenAI's format to start from; None starts from random values.
        guidance: train a classifier of noisy images beside the model.
        classifier: ``preset`` of its shape and what differs from it.
        gamma: weight of the variational bound (Eq. S2).
        decay: of the moving average of weights.
        learning_rate: of Adam.
        clip: largest norm of a step's gradient.
        micro_batch: images whose gradients are computed at once; None takes the whole batch.
        score: keys of ScoreKeys.
        sheet: images a strength on the contact sheet of a finished run; 0 draws none.
    """

    detector: SdasDetector
    updates: Tensor

    def __init__(
        self,
        *,
        backbone: Any,
        synthesis: Synthesizer | None,
        image_size: Sequence[int],
        seed: int,
        network: Mapping[str, Any] | None = None,
        size: int | None = None,
        weights: str | None = None,
        guidance: bool = False,
        classifier: Mapping[str, Any] | None = None,
        gamma: float = 0.001,
        decay: float = 0.999,
        learning_rate: float = 3e-4,
        clip: float = 1.0,
        micro_batch: int | None = None,
        score: Mapping[str, Any] | None = None,
        sheet: int = 4,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.seed, self.gamma, self.decay = seed, gamma, decay
        self.learning_rate, self.clip, self.sheet = learning_rate, clip, sheet
        if micro_batch is not None and micro_batch < 1:
            raise UserError(f"model.micro_batch={micro_batch}: a positive number is expected")
        self.micro_batch = micro_batch
        model = {
            "network": network or {},
            "classes": ["normal"],
            "size": [size, size] if size else list(image_size),
            "classifier": (classifier or {"preset": "tiny"}) if guidance else None,
        }
        self.detector = SdasDetector(model, score, seed)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        average = self.detector.model.network
        if weights is not None:
            load_openai(average, Path(weights))
        average.requires_grad_(False)
        self.network = AdmNetwork(average.shape, 1)
        self.network.load_state_dict(average.state_dict())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def requirements(self, train_images: int) -> Requirements:
        model = self.detector.model
        own = tuple(model.size) == self.image_size
        factor = model.network.shape.factor if own else 1
        return Requirements(size_multiple=factor, min_size=max(factor, 32), export=False)

    def prepare(self, datamodule: DataModule) -> None:
        """Take the categories of the training images; draw one embedding for each."""
        classes = sorted({sample.category for sample in datamodule.train_samples})
        model = self.detector.model
        model.set_classes(classes, seeded_generator("cpu", self.seed, _LABELS))
        model.network.requires_grad_(False)
        drawn = seeded_generator("cpu", self.seed, _LABELS)
        with_classes(self.network, len(classes), drawn)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self._trained(), lr=self.learning_rate)

    def _trained(self) -> list[torch.nn.Parameter]:
        classifier = self.detector.model.classifier
        return [*self.network.parameters(), *(classifier.parameters() if classifier else [])]

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        parts = self._backward(batch, self.generator(batch_idx))
        self.clip_gradients(optimizer, self.clip, "norm")
        optimizer.step()
        self.updates += 1
        step = int(self.updates)
        update_average(self.detector.model.network, self.network, self.decay, step)
        return parts

    def _backward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Leave the batch's mean gradient in the parameters; return the batch's mean losses.

        Micro-batches weigh by their size: the gradient is a mean, not a sum, and is clipped
        once, after the last of them.
        """
        model = self.detector.model
        image = resized(batch.image, model.size)
        label = model.labels(batch.category).to(image.device)
        size = self.micro_batch or len(batch)
        sums = torch.zeros(4, device=image.device)
        for some, names in zip(image.split(size), label.split(size), strict=True):
            share = len(some) / len(batch)
            loss, terms, guide = training_loss(
                self.network, model, some, names, self.gamma, generator
            )
            self.manual_backward(loss * share)
            parts = [loss.detach(), terms.mse.detach().mean(), terms.vb.detach().mean(), guide]
            sums += share * torch.stack(parts)
        return dict(zip(("loss", "mse", "vb", "classifier"), sums, strict=True))

    def artefacts(self, folder: Path) -> None:
        """Write contact sheets of drawn images at s = 0, 0.1, 0.2 and 0.5."""
        if not self.sheet:
            return
        model = self.detector.model.eval()
        for strength in SHEET_STRENGTHS:
            keys = PoolKeys(n=self.sheet, strength=strength)
            target = folder / "samples" / f"s{strength:g}"
            make_pool(model, target, keys, seed=self.seed, say=_silent)


def _silent(line: str) -> None:
    """Say nothing: sheets are small."""
    del line
