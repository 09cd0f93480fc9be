"""Training of SDAS: a class-conditional diffusion model of normal images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.diffusion.adm import AdmNetwork, with_classes
from adbench.diffusion.ema import update_average
from adbench.diffusion.fitting import leave_gradient, trained_parameters
from adbench.diffusion.openai import load_openai
from adbench.diffusion.pool import PoolKeys, make_pool
from adbench.diffusion.settings import NetworkKeys, adm_shape
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.memory import built, held_bytes, training_bytes
from adbench.methods.records import plain_values
from adbench.methods.sdas.detector import NETWORK_KEYS, SdasDetector
from adbench.methods.sdas.settings import SdasKeys
from adbench.synthesis.base import Synthesizer

_LABELS, _SHEET = 0x1ABE1, 0x5BEE7
SHEET_STRENGTHS = (0.0, 0.1, 0.2, 0.5)


class SdasModule(AnomalyModule):
    """SDAS around its detector, whose network is the moving average of the trained one.

    Args:
        backbone, synthesis: not used; images are modelled as they are.
        image_size: (height, width) of the batches.
        seed: fixes weights and draws.
        keys: those of ``SdasKeys``.
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
        **keys: Any,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        own = from_mapping(SdasKeys, keys, "model")
        self.seed, self.gamma, self.decay = seed, own.gamma, own.decay
        self.learning_rate, self.clip, self.sheet = own.learning_rate, own.clip, own.sheet
        self.micro_batch = own.micro_batch
        self.image_size = (int(image_size[0]), int(image_size[1]))
        size = (own.size, own.size) if own.size else self.image_size
        check_attention(own.network, "model.network")
        if own.guidance:
            check_attention(own.classifier, "model.classifier")
        model = {
            "network": own.network.given(),
            "classes": ["normal"],
            "size": list(size),
            "classifier": own.classifier.given() if own.guidance else None,
        }
        score = plain_values(own.score)
        self.detector = SdasDetector(model, score, seed, image_size=self.image_size)
        average = self.detector.model.network
        if own.weights is not None:
            load_openai(average, Path(own.weights))
        average.requires_grad_(False)
        self.network = built(
            lambda: AdmNetwork(average.shape, 1), "the trained network", NETWORK_KEYS
        )
        self.network.load_state_dict(average.state_dict())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def requirements(self, train_images: int) -> Requirements:
        model = self.detector.model
        own = tuple(model.size) == self.image_size
        factor = model.network.shape.factor if own else 1
        held = held_bytes(model.network) if self.device.type == "cpu" else 0
        return Requirements(
            size_multiple=factor,
            min_size=max(factor, 32),
            export=False,
            ddp=True,
            memory_bytes=training_bytes(self.network, model.classifier) + held + self._step_bytes,
        )

    @property
    def _step_bytes(self) -> int:
        """Bytes of the maps of one image at the two halves of the network, level by level."""
        shape = self.network.shape
        height, width = self.detector.model.size
        values = sum(
            shape.width * multiplier * (height * width >> 2 * level)
            for level, multiplier in enumerate(shape.multipliers)
        )
        return 4 * 2 * 3 * shape.blocks * values

    def prepare(self, datamodule: DataModule) -> None:
        """Take the categories of the training images; draw one embedding for each."""
        classes = sorted({sample.category for sample in datamodule.train_samples})
        model = self.detector.model
        model.set_classes(classes, seeded_generator("cpu", self.seed, _LABELS))
        model.network.requires_grad_(False)
        drawn = seeded_generator("cpu", self.seed, _LABELS)
        with_classes(self.network, len(classes), drawn)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = trained_parameters(self.network, self.detector.model)
        return torch.optim.Adam(trained, lr=self.learning_rate)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad(set_to_none=True)
        model = self.detector.model
        parts = leave_gradient(
            self.network,
            model,
            batch.image,
            model.labels(batch.category).to(batch.image.device),
            self.gamma,
            self.generator(batch_idx),
            micro_batch=self.micro_batch or 0,
            backward=self.manual_backward,
        )
        self.clip_gradients(optimizer, self.clip, "norm")
        optimizer.step()
        self.updates += 1
        step = int(self.updates)
        update_average(model.network, self.network, self.decay, step)
        return parts

    def artefacts(self, folder: Path) -> None:
        """Write contact sheets of drawn images at s = 0, 0.1, 0.2 and 0.5."""
        if not self.sheet:
            return
        model = self.detector.model.eval()
        for strength in SHEET_STRENGTHS:
            keys = PoolKeys(n=self.sheet, strength=strength)
            target = folder / "samples" / f"s{strength:g}"
            make_pool(model, target, keys, seed=self.seed, say=_silent)


def check_attention(keys: NetworkKeys, where: str) -> None:
    """Raise UserError where attention is asked for at a level that the network does not have."""
    factors = [2**level for level in range(len(adm_shape(keys.given()).multipliers))]
    if not set(keys.attention or ()) <= set(factors):
        raise UserError(
            f"{where}.attention={list(keys.attention or ())}: the levels' downsampling factors "
            f"are {factors}"
        )


def _silent(line: str) -> None:
    """Say nothing: sheets are small."""
    del line
