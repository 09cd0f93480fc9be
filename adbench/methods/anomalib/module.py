"""Training of anomalib's models by their own steps, on our batches."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adbench.backbones.extractor import BUNDLED, FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.errors import UserError
from adbench.methods.anomalib.detector import AnomalibDetector
from adbench.methods.anomalib.settings import AnomalibKeys
from adbench.methods.anomalib.theirs import ONE_PASS, built, stub_trainer
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.memory import training_bytes
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_FIT, _STEP = 0xF17, 0x57E9
_EPOCHS = 100  # told to schedules of theirs that ask how long a training is


class AnomalibModule(AnomalyModule):
    """One of anomalib's models around its detector.

    Args:
        backbone: frozen extractor of a timm network; its weights are given to their model.
        synthesis: not used.
        image_size: working (height, width).
        seed: fixes their draws from torch.
        keys: those of ``AnomalibKeys``.
    """

    detector: AnomalibDetector

    def __init__(
        self,
        *,
        backbone: FeatureExtractor | None,
        synthesis: Synthesizer | None,
        image_size: Sequence[int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        self.seed, self.keys = seed, from_mapping(AnomalibKeys, keys, "model")
        if backbone is None or backbone.name == BUNDLED:
            raise UserError(
                f"model=anomalib/{self.keys.method} reads a network of timm: set backbone=resnet18"
            )
        own = self.keys
        theirs = built(
            own.method, backbone.name, backbone.layers, own.options, backbone.network.state_dict()
        )
        self._theirs = (theirs,)  # in a tuple: not a submodule, its model is the detector's
        self._record = backbone.record
        self.detector = AnomalibDetector(
            own.method, backbone.config, image_size, own.options, theirs.model
        )
        self.one_pass = own.method in ONE_PASS
        self.automatic_optimization = not self.one_pass

    @property
    def backbone(self) -> SimpleNamespace:
        """Where the weights came from, for run.json."""
        return SimpleNamespace(record=self._record)

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; what their caches take is not known."""
        return Requirements(
            one_pass=self.one_pass, export=False, memory_bytes=training_bytes(self.detector)
        )

    def prepare(self, datamodule: DataModule) -> None:
        if not self.one_pass:
            return
        (theirs,) = self._theirs
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seeded_generator("cpu", self.seed, _FIT).initial_seed())
            self.detector.model.train()
            for batch in datamodule.train_batches():
                theirs.training_step(self._their_batch(batch.image.to(self.device)))
            theirs.fit()
        self.detector.model.eval()

    def _their_batch(self, image: Tensor) -> SimpleNamespace:
        normalised = (image - self.detector.mean) / self.detector.std
        label = torch.zeros(len(image), device=image.device)
        return SimpleNamespace(image=normalised, gt_mask=None, gt_label=label)

    def configure_optimizers(self) -> Any:
        if self.one_pass:
            return None
        (theirs,) = self._theirs
        theirs._trainer = stub_trainer(_EPOCHS)
        return theirs.configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.one_pass:
            return {"loss": torch.zeros((), device=self.device)}
        (theirs,) = self._theirs
        state = seeded_generator("cpu", self.seed, self.current_epoch, batch_idx, _STEP)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state.initial_seed())
            loss: Tensor = theirs.training_step(self._their_batch(batch.image))["loss"]
        return {"loss": loss}

    def finish(self, datamodule: DataModule) -> None:
        self.detector.model.eval()
