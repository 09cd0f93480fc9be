"""Training of GLASS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones import FeatureExtractor
from adbench.backbones.feature_cache import FeatureCache
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.aggregation import PatchFeatures
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.discriminator import Head
from adbench.methods.glass.bank import trust_in
from adbench.methods.glass.centre import feature_mean
from adbench.methods.glass.detector import GlassDetector
from adbench.methods.glass.estimates import cached_bytes, check_layers, step_bytes
from adbench.methods.glass.fast_step import FastStep
from adbench.methods.glass.hypothesis import Verdict, judge, mean_image, write_verdict
from adbench.methods.glass.plain_step import StepInputs, StepKeys, plain_losses
from adbench.methods.glass.pool import FeaturePool, column_spread, local_rows, normal_rows
from adbench.methods.glass.recalibration import recalibrated
from adbench.methods.glass.settings import GlassKeys
from adbench.methods.glass.weights import load_head, read_checkpoint
from adbench.methods.memory import built, training_bytes
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_SYNTHESIS, _NOISE, _RECALIBRATION, _POOL = 0, 1, 2, 3
_KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
_OTHER = {"manifold": "hypersphere", "hypersphere": "manifold"}


class GlassModule(AnomalyModule):
    """Adaptor and discriminator trained on normal, GAS and LAS features.

    Args:
        backbone: frozen feature extractor.
        synthesis: makes the local anomalies; None is refused where ``las`` asks for them.
        image_size: (height, width).
        seed: of all draws.
        keys: those of ``GlassKeys``.

    Raises:
        UserError: a key is unknown or holds an impossible value.
    """

    detector: GlassDetector

    def __init__(
        self,
        *,
        backbone: FeatureExtractor,
        synthesis: Synthesizer | None,
        image_size: tuple[int, int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        own = from_mapping(GlassKeys, keys, "model")
        if backbone is None:
            raise UserError("model=glass reads a frozen backbone: set backbone=wide_resnet50_2")
        self.keys, self.seed = own, seed
        self.gas, self.loss, self.optimiser = own.gas, own.loss, own.optimiser
        self.las, self.hypothesis = own.las, own.hypothesis
        self.centre_form, self.bn_stats, self.max_memory = own.centre, own.bn_stats, own.max_memory
        self.synthesis = synthesis if own.las else None
        self.detector = GlassDetector(
            backbone.config,
            image_size,
            patch=own.patch,
            embed=own.embed,
            aggregation=own.aggregation,
            hidden=own.hidden,
            sigma=own.sigma,
            score=own.score,
            bank=own.bank.size,
            share=own.bank.share,
            coarse=_coarse(own, image_size),
            extractor=backbone,
        )
        check_layers(backbone, self.detector)
        width = self._width = int(self.detector.aggregation.width)
        self.head = built(
            lambda: Head(width, own.hidden, adaptor=own.adaptor),
            "adaptor and discriminator",
            "model.embed or model.hidden",
        )
        if own.weights is not None:
            load_head(self.head, read_checkpoint(own.weights), own.weights)
        self.verdict: Verdict | None = None
        self._decided: str = self.hypothesis
        self._cache: FeatureCache | None = None
        self._pool: FeaturePool | None = None
        self._coarse_pool: FeaturePool | None = None
        self._unit: Tensor | None = None
        self._mean: Tensor | None = None
        self._centre: Tensor | None = None
        self._datamodule: DataModule | None = None

    @property
    def step_keys(self) -> StepKeys:
        """Settings of one iteration."""
        return StepKeys(self.gas, self.loss, self.bn_stats == "code")

    @property
    def spherical(self) -> bool:
        """Whether GAS features keep their distance from the centre."""
        return self._decided == "hypersphere"

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds; the estimate: caches, training state, a step of one image."""
        return Requirements(
            uses_synthesis=self.las,
            ddp=self.keys.rows is None,  # drawn rows come from one process's pool
            memory_bytes=cached_bytes(self.detector, self.keys, train_images)
            + training_bytes(self.head)
            + step_bytes(self.detector, self.keys),
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        keys = self.optimiser
        found: list[torch.optim.Optimizer] = [
            _KINDS[keys.discriminator](
                self.head.discriminator.parameters(),
                lr=keys.discriminator_lr,
                weight_decay=keys.discriminator_decay,
            )
        ]
        if self.head.adaptor is not None:
            found.append(
                torch.optim.Adam(
                    self.head.adaptor.parameters(),
                    lr=keys.adaptor_lr,
                    weight_decay=keys.adaptor_l2,
                )
            )
        return found

    def prepare(self, datamodule: DataModule) -> None:
        """Judge the hypothesis, compute the normals' features once and their mean."""
        self._datamodule = datamodule
        if self.synthesis is not None:
            self.synthesis.prepare(datamodule)
        if self.hypothesis in ("auto", "opposite"):
            images = (batch.image for batch in datamodule.train_batches())
            self.verdict = judge(mean_image(images))
            found = self.verdict.hypothesis
            self._decided = found if self.hypothesis == "auto" else _OTHER[found]
        if self.keys.rows is not None:
            self._fill_pool(datamodule)
            return
        if self.keys.unit == "column":
            images = (batch.image for batch in datamodule.train_batches())
            self._unit = column_spread(self._raw(image.to(self.device)) for image in images)
        if self.gas.as_published:
            return
        self._cache = FeatureCache(
            len(datamodule.train_samples), dtype="float32", max_memory=self.max_memory
        )
        images = (batch.image for batch in datamodule.train_batches())
        self._cache.fill(images, lambda image: self.features(image.to(self.device)).parts)
        if self.spherical:
            self._mean = feature_mean(self._cached_batches(datamodule), self.centre_form)

    def _fill_pool(self, datamodule: DataModule) -> None:
        count, copies = len(datamodule.train_samples), self.keys.las_copies
        self._pool = FeaturePool(count, copies, self.max_memory)
        self._pool.fill_normals(self._normals_of(batch) for batch in datamodule.train_batches())
        if self.keys.unit == "column":
            self._unit = column_spread(
                self._pool.images(torch.tensor([number]), self.device) for number in range(count)
            )
        if self.detector.bank is not None:
            self.detector.bank.fill(self._normal_rows, count, self.seed)
            self.detector.config["bank"] = len(self.detector.bank.bank)
        if self.detector.coarse is not None:
            self._coarse_pool = FeaturePool(count, 0, self.max_memory)
            batches = datamodule.train_batches()
            self._coarse_pool.fill_normals(self._normals_of(batch, "coarse") for batch in batches)
            self.detector.coarse.fill(self._coarse_rows, count, self.seed)
            self.detector.config["coarse"]["bank"] = len(self.detector.coarse.bank)
        if self.synthesis is None:
            return
        generator = seeded_generator(self.device, self.seed, _POOL)
        self._pool.fill_locals(
            self._locals_of(batch, copy, generator)
            for copy in range(copies)
            for batch in datamodule.train_batches()
        )

    def _normals_of(self, batch: Batch, kind: str = "") -> Tensor:
        def compute(absent: Batch) -> Tensor:
            image = absent.image.to(self.device)
            return normal_rows(
                self._raw(self.detector.coarse_picture(image) if kind == "coarse" else image)
            )

        return compute(batch) if self.memo is None else self.memo.rows(batch, compute, kind)

    def _locals_of(self, batch: Batch, copy: int, generator: torch.Generator) -> Tensor:
        def compute(absent: Batch) -> Tensor:
            made = self._made(absent.image.to(self.device), absent.index, generator)
            return local_rows(*made, generator)

        if self.memo is None:
            return compute(batch)
        return self.memo.rows(batch, compute, f"local anomaly {copy}")

    def _normal_rows(self, index: Tensor) -> Tensor:
        """Return the features [B, P, C] of normal images as they are."""
        assert self._pool is not None
        return self._pool.images(index, self.device).rows().view(len(index), -1, self._width)

    def _coarse_rows(self, index: Tensor) -> Tensor:
        """Return the features [B, P, C] of normal images at the smaller size."""
        assert self._coarse_pool is not None
        found = self._coarse_pool.images(index, self.device)
        return found.rows().view(len(index), -1, self._width)

    def _cached_batches(self, datamodule: DataModule) -> Iterator[PatchFeatures]:
        for start in range(0, len(datamodule.train_samples), datamodule.batch_size):
            stop = min(start + datamodule.batch_size, len(datamodule.train_samples))
            yield self._cached(torch.arange(start, stop))

    def _all_batches(self, datamodule: DataModule) -> Iterator[PatchFeatures]:
        if self._cache is not None or self._pool is not None:
            return self._cached_batches(datamodule)
        batches = datamodule.train_batches()
        return (self.features(batch.image.to(self.device)) for batch in batches)

    def _cached(self, index: Tensor) -> PatchFeatures:
        if self._pool is not None:
            return self._in_units(self._pool.images(index, self.device))
        assert self._cache is not None
        parts = self._cache(index, self.device)
        aggregation = self.detector.aggregation
        grid = (parts[0].shape[1], parts[0].shape[2])
        return PatchFeatures(parts, aggregation.columns, grid, aggregation.width)

    def features(self, image: Tensor) -> PatchFeatures:
        """Return the aggregated features of images [B, 3, H, W] in 0..1, in their units."""
        return self._in_units(self._raw(image))

    @torch.no_grad()
    def _raw(self, image: Tensor) -> PatchFeatures:
        maps = self.detector.maps(image)
        with torch.autocast(image.device.type, enabled=False):
            return self.detector.aggregate(maps)

    def _in_units(self, found: PatchFeatures) -> PatchFeatures:
        if self._unit is None:
            return found
        unit = self._unit.to(found.parts[0])
        pairs = zip(found.parts, found.columns, strict=True)
        return replace(found, parts=[part / unit[start:stop] for part, (start, stop) in pairs])

    def on_train_epoch_start(self) -> None:
        """Take the centre with the adaptor of the epoch's start."""
        if not self.spherical and not self.gas.as_published:
            return
        if self.gas.as_published:  # as published: a pass over all images whatever the hypothesis
            assert self._datamodule is not None
            self._mean = feature_mean(self._all_batches(self._datamodule), self.centre_form)
        assert self._mean is not None
        with torch.no_grad():
            self._centre = self.head.adapted(self._mean.to(self.device))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Take one optimiser step; return loss, its parts and the clamped share."""
        normal, local, target = self._step_features(batch, batch_idx)
        inputs = StepInputs(
            self._noise(normal, self.common_generator(batch_idx, _NOISE)),
            target,
            self._centre if self.spherical else None,
        )
        with torch.autocast(self.device.type, enabled=False):
            total, parts = self._gradients(normal, local, inputs)
        ranks.average_gradients(self.head.parameters())
        factor = self.optimiser.factor(self.progress())
        for optimiser in self._optimisers():
            for group in optimiser.param_groups:
                group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
            optimiser.step()
        return {"loss": total.detach(), **parts}

    def _optimisers(self) -> list[Any]:
        found = self.optimizers()
        return found if isinstance(found, list) else [found]

    def _noise(self, features: PatchFeatures, generator: torch.Generator) -> Tensor:
        rows = len(features) * features.grid[0] * features.grid[1]
        part = features.parts[0]
        if self.gas.scale == 0:
            return part.new_zeros((rows, features.width))
        whole = (rows * ranks.size(), features.width)
        drawn = ranks.own_rows(torch.randn(whole, generator=generator, device=part.device))
        return drawn.mul_(self.gas.scale)

    def _step_features(
        self, batch: Batch, batch_idx: int
    ) -> tuple[PatchFeatures, PatchFeatures | None, Tensor | None]:
        """Return normal features, those of local anomalies and their target [N]."""
        generator = self.generator(batch_idx, _SYNTHESIS)
        if self._pool is not None:
            assert self.keys.rows is not None
            normal, local, target = self._pool.draw(self.keys.rows, generator, self.device)
            return self._in_units(normal), None if local is None else self._in_units(local), target
        normal = self.features(batch.image) if self.gas.as_published else self._cached(batch.index)
        if self.synthesis is None:
            return normal, None, None
        local, target = self._made(batch.image, batch.index, generator)
        return normal, self._in_units(local), target

    def _made(
        self, image: Tensor, index: Tensor, generator: torch.Generator
    ) -> tuple[PatchFeatures, Tensor]:
        """Return raw features of images with local anomalies and their mask on the grid, [N]."""
        assert self.synthesis is not None
        made = self.synthesis(
            image, foreground=self.synthesis.foreground_masks(index), generator=generator
        )
        features = self._raw(made.image)
        return features, F.adaptive_max_pool2d(made.mask.float(), features.grid).flatten()

    def _gradients(
        self, normal: PatchFeatures, local: PatchFeatures | None, inputs: StepInputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.gas.as_published:
            return FastStep(self.head, normal, local, inputs, self.step_keys).run()
        for parameter in self.head.parameters():
            parameter.grad = None
        rows = None if local is None else local.rows()
        total, parts = plain_losses(self.head, normal.rows(), rows, inputs, self.step_keys)
        total.backward()
        return total, parts

    def refresh(self) -> None:
        """Fold the trained head into the detector, its running statistics settled where asked.

        What validates and what is saved is made here, by the weights alone.
        """
        if self._datamodule is not None:
            self.finish(self._datamodule)
        else:
            self.detector.fold(self.head, self._unit)

    def finish(self, datamodule: DataModule) -> None:
        """Do what ``refresh`` does."""
        self._settle(datamodule)
        self.detector.fold(self.head, self._unit)
        if self.detector.bank is not None:
            images = len(datamodule.train_samples)
            trust = trust_in(images, self.keys.bank.prior)
            self.detector.bank.settle(self._normal_rows, images, self.detector.row_logits, trust)
        if self.detector.coarse is not None:
            self.detector.coarse.settle(self._coarse_rows, len(datamodule.train_samples), None)

    @torch.no_grad()
    def _settle(self, datamodule: DataModule) -> None:
        if self.bn_stats != "recalibrate":
            return
        generator = seeded_generator(self.device, self.seed, _RECALIBRATION)
        sets = ((found, self._noise(found, generator)) for found in self._all_batches(datamodule))
        with torch.autocast(self.device.type, enabled=False):
            recalibrated(self.head, sets, self.step_keys, self._present_centre(datamodule))

    def _present_centre(self, datamodule: DataModule) -> Tensor | None:
        """Return the centre [P, C] by the adaptor as it is now; None: manifold."""
        if not self.spherical:
            return None
        if self._mean is None:
            self._mean = feature_mean(self._all_batches(datamodule), self.centre_form)
        return self.head.adapted(self._mean.to(self.device))

    def artefacts(self, folder: Path) -> None:
        if self.verdict is not None:
            write_verdict(self.verdict, folder)


def _coarse(keys: GlassKeys, image_size: tuple[int, int]) -> dict[str, Any] | None:
    """Return what the detector is told of the smaller picture."""
    size = keys.bank.coarse_size((int(image_size[0]), int(image_size[1])))
    return None if size is None else {"image_size": list(size), "bank": keys.bank.size}
