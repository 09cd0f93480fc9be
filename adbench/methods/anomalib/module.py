"""Training of anomalib's models by their own steps, on our batches."""

from __future__ import annotations

import math
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
from adbench.methods.anomalib.theirs import CLASSES, built, check_options, stub_trainer
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.memory import training_bytes
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_BUILD, _FIT, _STEP = 0xB171D, 0xF17, 0x57E9
_STEPS = 5000  # told to what asks how long a training is where minutes alone bound it


class AnomalibModule(AnomalyModule):
    """One of anomalib's models around its detector.

    Args:
        backbone: frozen extractor of a timm network; its weights are given to their model. None
            for models that read none.
        synthesis: not used.
        image_size: working (height, width).
        seed: fixes their draws from torch.
        keys: those of ``AnomalibKeys``.
    """

    detector: AnomalibDetector
    _datamodule: DataModule | None = None

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
        own = self.keys
        check_options(own.method, own.options)
        size = (int(image_size[0]), int(image_size[1]))
        network = _network(own.method, backbone)
        name, layers, weights = None, [], None
        if network is not None:
            name, layers = network.name, network.layers
            held = network.network.state_dict()  # timm's getter of blocks prefixes names
            weights = {name.removeprefix("model."): value for name, value in held.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded_generator("cpu", seed, _BUILD).initial_seed())
            theirs = built(own.method, name, layers, own.options, weights, size)
        self._theirs = (theirs,)  # in a tuple: not a submodule, its model is the detector's
        self._record = None if network is None else network.record
        config = None if network is None else network.config
        self.detector = AnomalibDetector(own.method, config, size, own.options, theirs.model)
        self.one_pass = CLASSES[own.method].one_pass
        self.automatic_optimization = not self.one_pass and theirs.automatic_optimization
        theirs.optimizers, theirs.manual_backward = self._optimiser, self.manual_backward

    @property
    def backbone(self) -> SimpleNamespace | None:
        """Where the weights came from, for run.json."""
        return None if self._record is None else SimpleNamespace(record=self._record)

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; what their caches take is not known."""
        encoder = getattr(self.detector.model, "encoder", None)
        patch = getattr(encoder, "patch_size", 1) if self._reads == "vit" else 1
        return Requirements(
            size_multiple=patch[0] if isinstance(patch, tuple) else int(patch),
            one_pass=self.one_pass,
            export=False,
            memory_bytes=training_bytes(self.detector),
        )

    @property
    def _reads(self) -> str:
        return CLASSES[self.keys.method].reads

    def prepare(self, datamodule: DataModule) -> None:
        (theirs,) = self._theirs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeded_generator("cpu", self.seed, _FIT).initial_seed())
            if self.one_pass:
                self._fit_once(datamodule)
            else:
                self._datamodule = datamodule
                theirs._trainer = self._told()
                theirs.on_train_start()

    @torch.no_grad()
    def _fit_once(self, datamodule: DataModule) -> None:
        (theirs,) = self._theirs
        self.detector.model.train()
        for batch in datamodule.train_batches():
            theirs.training_step(self._their_batch(batch.image.to(self.device)))
        theirs.fit()
        self.detector.model.eval()

    def _told(self) -> SimpleNamespace:
        """Return what stands for their trainer."""
        assert self._datamodule is not None
        steps = self.planned_steps or _STEPS
        epochs = math.ceil(steps / max(1, len(self._datamodule.train_dataloader())))
        return stub_trainer(epochs, steps, self._batches)

    def _batches(self) -> list[SimpleNamespace]:
        assert self._datamodule is not None
        found = self._datamodule.train_batches()
        return [self._their_batch(batch.image.to(self.device)) for batch in found]

    def _their_batch(self, image: Tensor) -> SimpleNamespace:
        normalised = (image - self.detector.mean) / self.detector.std
        label = torch.zeros(len(image), device=image.device)
        return SimpleNamespace(image=normalised, gt_mask=None, gt_label=label)

    def configure_optimizers(self) -> Any:
        if self.one_pass:
            return None
        (theirs,) = self._theirs
        theirs._trainer = self._told()
        return theirs.configure_optimizers()

    def _optimiser(self, *_: Any, **__: Any) -> Any:
        """Return what their manual steps step with."""
        return self.optimizers()

    def backward(self, loss: Tensor, *arguments: Any, **keys: Any) -> None:
        (theirs,) = self._theirs
        theirs.backward(loss, *arguments, **keys)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        if self.one_pass:
            return {"loss": torch.zeros((), device=self.device)}
        (theirs,) = self._theirs
        theirs.trainer.global_step = self.global_step
        state = seeded_generator("cpu", self.seed, self.current_epoch, batch_idx, _STEP)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state.initial_seed())
            loss: Tensor = theirs.training_step(self._their_batch(batch.image))["loss"]
        return {"loss": loss if self.automatic_optimization else loss.detach().float().mean()}

    def finish(self, datamodule: DataModule) -> None:
        self.detector.model.eval()


def _network(method: str, backbone: FeatureExtractor | None) -> FeatureExtractor | None:
    """Return the network whose weights are handed over.

    Raises:
        UserError: there is none, or one of another kind than the model reads.
    """
    reads = CLASSES[method].reads
    if reads == "nothing":
        return None
    wanted = "dinov2_small" if reads == "vit" else "resnet18"
    if backbone is None or backbone.name == BUNDLED:
        raise UserError(f"model=anomalib/{method} reads a network of timm: set backbone={wanted}")
    if (reads == "vit") != backbone.name.startswith("vit_"):
        raise UserError(
            f"model=anomalib/{method} does not read {backbone.name}: set backbone={wanted}"
        )
    return backbone
