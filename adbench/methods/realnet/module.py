"""Training of RealNet: choose channels, reconstruct, discriminate, settle the statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.diffusion.fitting import FitKeys, sdas_stages
from adbench.diffusion.pool import PoolKeys
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.memory import training_bytes
from adbench.methods.realnet.blocks import blocks_of, kept_dims
from adbench.methods.realnet.cache import NormalFeatures
from adbench.methods.realnet.choice import (
    ChannelChooser,
    Choice,
    apply_choices,
    read_choices,
    write_choices,
)
from adbench.methods.realnet.detector import RealNetDetector
from adbench.methods.realnet.losses import reconstruction_loss, segmentation_loss
from adbench.methods.realnet.pictures import selection_sheet
from adbench.methods.realnet.residuals import ChannelStatistics
from adbench.methods.realnet.selection import selection_notes
from adbench.methods.realnet.settings import RealNetKeys
from adbench.methods.records import plain_values
from adbench.runs.pictures import write_png
from adbench.runs.stages import Stage, StageContext
from adbench.synthesis.base import Synthesizer

_SETTLE, _PROJECT = 0x5E771E, 0x9A0
_SETTLE_IMAGES = 256  # more would not move statistics over so many positions


class Damaged(NamedTuple):
    """Draws of one step: positions [n] in the batch, their composites, masks [B, 1, H, W] bool."""

    position: Tensor
    image: Tensor
    mask: Tensor


class RealNetModule(AnomalyModule):
    """RealNet around its detector.

    Args:
        backbone: frozen extractor; its layers, fine to coarse, are what is selected from.
        synthesis: makes the anomalies of selection and training.
        image_size: working (height, width).
        seed: fixes weights and draws.
        keys: those of ``RealNetKeys``.

    Attributes:
        stage_folder: where finished stages lie; set before ``prepare`` by whoever ran them.
            Without it, ``prepare`` repeats the selection, which is deterministic.
    """

    detector: RealNetDetector
    stage_folder: Path | None = None

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
        own = from_mapping(RealNetKeys, keys, "model")
        if backbone is None:
            raise UserError("model=realnet reconstructs features: set backbone=bundled")
        self.seed, self.synthesis = seed, synthesis
        self.afs, self.loss_keys, self.cache_keys = own.afs, own.loss, own.cache
        self.normal_share, self.learning_rate = own.normal_share, own.learning_rate
        self.recalibrate, self.plain = own.recalibrate, own.as_published
        self.dims = kept_dims(backbone.channels, own.afs.dims)
        blocks = blocks_of(own.arch, backbone.strides, self.dims)
        self.detector = RealNetDetector(
            backbone,
            image_size,
            [block.as_dict() for block in blocks],
            recon=plain_values(own.recon),
            rrs=plain_values(own.rrs),
            score=plain_values(own.score),
            layers=own.discriminator_layers,
            project=own.afs.mode == "rlpr",
            plain=own.as_published,
        )
        self.multiple = max(block.stride for block in blocks) * 2**own.recon.halvings
        if own.channels_last:
            self.detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._normal: NormalFeatures | None = None
        self._data: DataModule | None = None
        self._settled: tuple[int, ...] = ()

    # Before the fit

    def requirements(self, train_images: int) -> Requirements:
        height, width = self.detector.image_size
        values = sum(
            block.channels * (height // block.stride) * (width // block.stride)
            for block in self.detector.selected.blocks
        )
        size = 2 if self.cache_keys.dtype == "float16" else 4
        wanted = 0 if self.plain else values * size * train_images
        return Requirements(
            size_multiple=self.multiple,
            min_size=self.multiple,
            uses_synthesis=True,
            ddp=True,
            memory_bytes=(wanted if wanted <= self.cache_keys.max_memory else 0)
            + training_bytes(self.detector.recon, self.detector.discriminator)
            + self._step_bytes(values),
        )

    def _step_bytes(self, values: int) -> int:
        """Bytes of a step for a batch of one image whose features have ``values`` numbers.

        Features, reconstructions and squared errors, and the residuals at the finest stride.
        """
        height, width = self.detector.image_size
        finest = min(block.stride for block in self.detector.selected.blocks)
        residuals = self.detector.residuals.kept * (height // finest) * (width // finest)
        return 4 * (3 * values + 3 * residuals)

    def stages(self) -> list[Stage]:
        """Return the synthesizer's own stages, where it has any, and the selection."""
        before = self._pool_stages()
        config = {
            "afs": plain_values(self.afs),
            "blocks": self.detector.config["blocks"],
            "image_size": self.detector.config["image_size"],
            "backbone": getattr(self.detector.backbone, "record", {}),
            "synthesis": _described(self.synthesis),
            "seed": self.seed,
            "as_published": self.plain,
        }
        inputs = tuple(stage.name for stage in before)
        return [*before, Stage("afs", self._run_afs, config, inputs)]

    def _pool_stages(self) -> list[Stage]:
        """Return ``sdas`` and ``pool`` where the synthesizer's pool is made in this run."""
        source: Any = self.synthesis
        if not getattr(source, "own_stages", False):
            return []
        fit, pool = FitKeys(**source.fit_keys), PoolKeys(**source.pool_keys)
        return sdas_stages(fit, pool, seed=self.seed, device=self.device.type)

    def _run_afs(self, context: StageContext) -> None:
        self._synthesizer().prepare(context.datamodule)
        backbone = self.detector.backbone
        for line in selection_notes(backbone.layers, backbone.channels, self.dims):
            context.say(line)
        chooser = self._chooser(context.datamodule)
        choices = chooser.choices()
        write_choices(context.folder / "choices.json", choices)
        sheet = selection_sheet(chooser, choices)
        if sheet is not None:
            write_png(context.folder / "chosen.png", sheet)

    def _chooser(self, datamodule: DataModule) -> ChannelChooser:
        return ChannelChooser(
            self.detector,
            self._synthesizer(),
            datamodule,
            self.afs,
            cache=self.cache_keys,
            seed=self.seed,
            device=self.device,
            plain=self.plain,
        )

    def _synthesizer(self) -> Synthesizer:
        if self.synthesis is None:
            raise UserError("model=realnet trains on synthetic anomalies: set synthesis=draem")
        return self.synthesis

    def prepare(self, datamodule: DataModule) -> None:
        self._data = datamodule
        self._synthesizer().prepare(datamodule)
        apply_choices(self.detector, self._choices(datamodule))
        if self.afs.mode == "rlpr":
            self.detector.selected.draw_projections(seeded_generator("cpu", self.seed, _PROJECT))
        if not self.plain:
            extract = self.detector.features
            self._normal = NormalFeatures(datamodule, extract, self.cache_keys, self.device)

    def _choices(self, datamodule: DataModule) -> list[Choice]:
        written = self.stage_folder and self.stage_folder / "afs" / "choices.json"
        if written and written.is_file():
            return read_choices(written)
        return self._chooser(datamodule).choices()

    # The fit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [p for p in self.detector.parameters() if p.requires_grad]
        fused = self.device.type == "cuda"
        return torch.optim.Adam(trained, lr=self.learning_rate, fused=fused)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        damaged = self._damaged(batch, self.generator(batch_idx))
        features, target = self._features(batch, damaged)
        made = self.detector.reconstructed(features)
        recon = reconstruction_loss(made, target, self.loss_keys.reduction)
        seg = segmentation_loss(self.detector.logits(features, made), damaged.mask)
        return {
            "loss": self.loss_keys.recon * recon + self.loss_keys.seg * seg,
            "recon": recon.detach(),
            "seg": seg.detach(),
            "mask_area": damaged.mask.float().mean(),
        }

    def _damaged(self, batch: Batch, generator: torch.Generator) -> Damaged:
        draw = torch.rand(len(batch), generator=generator, device=batch.image.device)
        position = (draw >= self.normal_share).nonzero().squeeze(1)
        mask = torch.zeros_like(batch.image[:, :1], dtype=torch.bool)
        if not len(position):
            return Damaged(position, batch.image[:0], mask)
        synthesis = self._synthesizer()
        made = synthesis(
            batch.image[position],
            foreground=synthesis.foreground_masks(batch.index[position]),
            generator=generator,
        )
        mask[position] = made.mask
        return Damaged(position, made.image, mask)

    def _features(self, batch: Batch, damaged: Damaged) -> tuple[list[Tensor], list[Tensor]]:
        """Return features of the damaged batch and of its originals.

        A draw that stays normal equals its original: only composites go through the backbone.
        """
        if self._normal is None:
            image = batch.image.index_copy(0, damaged.position, damaged.image)
            return self.detector.features(image), self.detector.features(batch.image)
        target = self._normal(batch.index, batch.image)
        if not len(damaged.position):
            return target, target
        new = self.detector.features(damaged.image)
        features = [
            phi.index_copy(0, damaged.position, a.to(phi.dtype))
            for phi, a in zip(target, new, strict=True)
        ]
        return features, target

    # After the fit

    def refresh(self) -> None:
        """Settle the running statistics; what validates and what is saved is made here."""
        if self._data is not None:
            self._settle(self._data)

    def finish(self, datamodule: DataModule) -> None:
        """Do what ``refresh`` does."""
        self._settle(datamodule)

    @torch.no_grad()
    def _settle(self, datamodule: DataModule) -> None:
        """Re-estimate the statistics that select residuals, then the discriminator's, in eval mode.

        Every image counts as itself and as one composite, in the proportion of training; the
        result depends neither on the order of the loader nor on its last batch. The second
        statistics rest on the first: which residuals the discriminator sees.
        """
        if not self.recalibrate or self._versions() == self._settled:
            return
        training = self.detector.training
        self.detector.eval()
        detector = self.detector
        self._measured(datamodule, lambda errors: errors).set(detector.residuals)
        seen = self._measured(datamodule, self._entry_maps)
        seen.set(detector.discriminator.norm)
        self.detector.train(training)
        self._settled = self._versions()

    def _versions(self) -> tuple[int, ...]:
        """Return how often each tensor of the detector was written to: equal, nothing changed."""
        return tuple(tensor._version for tensor in self.detector.state_dict().values())

    def _measured(
        self, datamodule: DataModule, maps: Callable[[list[Tensor]], list[Tensor]]
    ) -> ChannelStatistics:
        """Return the statistics of what ``maps`` makes of the blocks' squared errors."""
        statistics = ChannelStatistics()
        for normal, damaged in self._settling_images(datamodule):
            for image, weight in ((normal, self.normal_share), (damaged, 1 - self.normal_share)):
                statistics.add(maps(self._residuals(image)), weight)
        return statistics

    def _residuals(self, image: Tensor) -> list[Tensor]:
        features = self.detector.features(image)
        made = self.detector.reconstructed(features)
        return [(phi - g).square() for phi, g in zip(features, made, strict=True)]

    def _entry_maps(self, errors: list[Tensor]) -> list[Tensor]:
        return [self.detector.discriminator.entry_maps(self.detector.residuals(errors))]

    def _settling_images(self, datamodule: DataModule) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of training images, evenly spaced over the set, and their composites."""
        synthesis = self._synthesizer()
        count = len(datamodule.train_samples)
        index = torch.linspace(0, count - 1, min(count, _SETTLE_IMAGES)).round().long()
        for number, some in enumerate(index.split(8)):
            image = datamodule.train_images(some).to(self.device)
            generator = seeded_generator(self.device, self.seed, _SETTLE, number)
            foreground = synthesis.foreground_masks(some)
            yield image, synthesis(image, foreground=foreground, generator=generator).image


def _described(synthesis: Synthesizer | None) -> dict[str, Any]:
    """Return class and plain attributes, by which a selection knows that its draws changed."""
    plain = (int, float, str, tuple, list, dict, Path)
    values = {k: v for k, v in vars(synthesis).items() if isinstance(v, plain)}
    return {"kind": type(synthesis).__name__, **values}
