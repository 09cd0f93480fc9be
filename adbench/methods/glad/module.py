"""Training of GLAD: fit the noise estimator to repair (ATP), then settle constants."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.diffusion.ema import update_average
from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.schedule import noised
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.base import AnomalyModule, Requirements, seeded_generator
from adbench.methods.glad.atp import implied_clean, mixed, repairing_noise, squared_error
from adbench.methods.glad.calibration import (
    ENOUGH,
    calibrated,
    fit_residuals,
    held_out_images,
    training_images,
)
from adbench.methods.glad.detector import GladDetector, Settled
from adbench.methods.glad.latents import LatentPairs, cache_bytes
from adbench.methods.glad.pictures import drawn_sheet
from adbench.methods.glad.settings import GladKeys
from adbench.methods.glad.tuning import Pairs, mlp_weights, tuned
from adbench.runs.files import write_json
from adbench.runs.pictures import write_png
from adbench.runs.stages import Stage
from adbench.synthesis.base import Synthesizer

_LABELS, _STEP, _PAIR = 0x1ABE1, 0x57E9, 0x9A12


class GladModule(AnomalyModule):
    """GLAD around its detector.

    Args:
        backbone: features that reconstructions are compared by.
        synthesis: makes the damaged images of training and calibration.
        diffusion: the latent diffusion model of the group ``diffusion``.
        image_size: working (height, width).
        seed: of weights, draws and the images' noise.
        keys: conf/model/glad.yaml.

    Raises:
        UserError: no backbone or diffusion model, or a key that is unknown or impossible.
    """

    detector: GladDetector
    updates: Tensor

    def __init__(
        self,
        *,
        backbone: FeatureExtractor | None,
        synthesis: Synthesizer | None,
        diffusion: LatentDiffusion | None,
        image_size: Sequence[int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        if diffusion is None:
            raise UserError("model=glad reconstructs by diffusion: set diffusion=scratch")
        if backbone is None:
            raise UserError("model=glad compares features: set backbone=bundled")
        self.seed, self.synthesis = seed, synthesis
        self.keys = from_mapping(GladKeys, keys, "model")
        if self.keys.tuning.epochs:
            mlp_weights(backbone)  # or it is said now
        self.detector = GladDetector(backbone, diffusion, image_size, keys, seed)
        self.automatic_optimization = False
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.network: nn.Module = diffusion.network
        self._latents: LatentPairs | None = None
        self._report: dict[str, Any] = {}
        self._data: DataModule | None = None

    @property
    def diffusion(self) -> LatentDiffusion:
        """The detector's model; its network holds the moving average where there is one."""
        return self.detector.diffusion

    # Before the fit

    def requirements(self, train_images: int) -> Requirements:
        multiple = self.diffusion.size_multiple
        wanted = self._cache_bytes(train_images)
        return Requirements(
            size_multiple=multiple,
            min_size=max(32, multiple),
            uses_synthesis=self.keys.atp.enabled,
            uses_held_out=self.keys.calibrates,
            export=False,
            ddp=True,
            memory_bytes=wanted if wanted <= self.keys.latents.max_memory else 0,
        )

    def _cache_bytes(self, images: int) -> int:
        height, width = (side // self.diffusion.factor for side in self.detector.image_size)
        values = self.diffusion.channels * height * width
        return cache_bytes(images, values, self.keys.latents.bank if self.keys.atp.enabled else 0)

    def stages(self) -> list[Stage]:
        """Return what the diffusion model needs before its network can be trained."""
        return self.diffusion.stages(
            features=self.detector.backbone,
            synthesis=self.synthesis,
            seed=self.seed,
            size=self.detector.image_size,
            device=self.device,
            check=self.check_data,
        )

    def check_data(self, datamodule: DataModule) -> None:
        """Refuse a run whose constants nothing could settle, before anything trains.

        Raises:
            UserError: there is no held-out normal image, or no synthesizer where composites are
                needed to choose by.
        """
        if self.keys.needs_composites and self.synthesis is None:
            raise UserError(
                "model.start, ads.restart, ads.gate or score.top is left to be chosen on held-out "
                "images with synthetic defects: set synthesis=memseg, or give numbers"
            )
        if self.keys.calibrates and not datamodule.val_samples:
            raise UserError(
                "no held-out normal image to calibrate on: set dataset.hold_out=0.1, or give "
                "model.ads.delta, model.ads.restart and model.score.top as numbers"
            )

    def prepare(self, datamodule: DataModule) -> None:
        self.check_data(datamodule)
        self._data = datamodule
        if self.synthesis is not None:
            self.synthesis.prepare(datamodule)
        classes = sorted({sample.category for sample in datamodule.train_samples})
        self.diffusion.set_classes(classes, seeded_generator("cpu", self.seed, _LABELS))
        if self.stage_folder is not None:
            self.diffusion.restore(self.stage_folder)
        self.detector.set_classes(self._centres(datamodule, classes))
        self.detector.requires_grad_(False)
        self.network = self.diffusion.network
        if self.keys.optimiser.decay is not None:
            self.network = copy.deepcopy(self.diffusion.network)
        self.network.requires_grad_(True)
        if self.keys.optimiser.checkpointing:
            self.network.enable_gradient_checkpointing()  # type: ignore[operator]
        self._latents = self._pairs(datamodule)

    def _pairs(self, datamodule: DataModule) -> LatentPairs:
        """Return the source of latents, filled where they fit into memory."""
        synthesis = self.synthesis if self.keys.atp.enabled else None
        pairs = LatentPairs(self.diffusion, synthesis, self.keys.latents.bank, self.device)
        if self._cache_bytes(len(datamodule.train_samples)) <= self.keys.latents.max_memory:
            pairs.fill(datamodule, self.seed)
        return pairs

    @torch.no_grad()
    def _centres(self, datamodule: DataModule, classes: Sequence[str]) -> Tensor:
        """Return the mean feature [C, D] of the training images of each category."""
        sums = torch.zeros(len(classes), self.detector.centres.shape[1], device=self.device)
        if len(classes) == 1:
            return sums
        counts = sums.new_zeros(len(classes), 1)
        for batch in datamodule.train_batches():
            found = self.detector.described(batch.image.to(self.device))
            rows = torch.tensor([classes.index(name) for name in batch.category])
            sums.index_add_(0, rows.to(self.device), found)
            counts.index_add_(0, rows.to(self.device), torch.ones_like(found[:, :1]))
        return sums / counts

    # The fit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        keys = self.keys.optimiser
        return torch.optim.AdamW(
            self.network.parameters(), lr=keys.learning_rate, weight_decay=keys.weight_decay
        )

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        optimizer: Any = self.optimizers()
        keys = self.keys.optimiser
        loss, parts = self._loss(batch, batch_idx)
        for group in optimizer.param_groups:
            group["lr"] = keys.learning_rate * keys.factor(self.progress())
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self.clip_gradients(optimizer, keys.clip, "norm")
        optimizer.step()
        self.updates += 1
        if keys.decay is not None:
            update_average(self.diffusion.network, self.network, keys.decay, int(self.updates))
        return {"loss": loss.detach(), **parts}

    def _loss(self, batch: Batch, batch_idx: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the squared error of the network's answer (Eq. 10) and its parts."""
        atp = self.keys.atp
        keys = (self.seed, self.current_epoch, batch_idx, _PAIR, *ranks.own_key())
        assert self._latents is not None
        normal, damaged = self._latents(batch, atp.damaged, keys)
        generator = self.generator(batch_idx, _STEP)
        time = torch.randint(
            atp.lowest, atp.levels, (len(batch),), generator=generator, device=self.device
        )
        if atp.mix == "time":
            damaged = mixed(normal, damaged, time)
        noise = torch.randn(normal.shape, generator=generator, device=self.device)
        schedule = self.diffusion.schedule
        wanted = repairing_noise(
            schedule, normal, damaged, noise, time, sign=atp.sign, k_max=atp.k_max
        )
        sample = noised(schedule, damaged, time, noise)
        clean = implied_clean(schedule, damaged, noise, wanted, time)
        target = self.diffusion.target(clean, wanted, time)
        label = self.diffusion.labels(batch.category)
        found = self.diffusion.output(self.network, sample, time, label)
        defect = (wanted - noise).square().mean().detach()
        return squared_error(found, target), {"defect": defect}

    # After the fit

    def finish(self, datamodule: DataModule) -> None:
        if not all(bool(weight.isfinite().all()) for weight in self.diffusion.network.parameters()):
            raise UserError(
                "the network's weights are no longer finite: the training has diverged; lower "
                "model.optimiser.learning_rate or model.optimiser.clip"
            )
        if self.keys.calibrates and len(datamodule.val_samples) < ENOUGH:
            warnings.warn(
                f"constants are settled on {len(datamodule.val_samples)} held-out images only; "
                "raise dataset.hold_out",
                stacklevel=1,
            )
        self._settle(datamodule)
        if self._report and len(self.diffusion.classes) > 1:
            self._report["routed"] = round(self._routed(datamodule), 4)

    def refresh(self) -> None:
        # A look at the detector before its constants fit the weights would see another one.
        if self._data is not None:
            self._settle(self._data)

    @torch.no_grad()
    def _settle(self, datamodule: DataModule) -> None:
        """Settle what the keys leave open, as if nothing had been settled before."""
        self.detector.settled, self.detector.scorer = Settled.of(self.keys), None
        if self.keys.tuning.epochs:
            self._tune(datamodule)
        whitened = self.keys.score.distance == "whitened"
        normal = training_images(datamodule, self.device) if whitened else []
        if not self.keys.calibrates:
            fit_residuals(self.detector, normal)
            return
        images = held_out_images(datamodule, self.synthesis, self.seed, self.device)
        settled, report = calibrated(self.detector, images, normal)
        self._report = {"settled": settled, **report}

    def _tune(self, datamodule: DataModule) -> None:
        """Fine-tune what scores on training images and their plain reconstructions."""
        keys = self.keys.tuning
        pairs = Pairs(
            [batch.image.to(self.device) for batch in datamodule.train_batches()],
            lambda image: self.detector.plainly_reconstructed(image, keys.start, keys.steps),
        )
        with torch.enable_grad():
            self.detector.scorer = tuned(self.detector.backbone, pairs, keys, self.seed)
        self.detector.settle(tuned=True)

    @torch.no_grad()
    def _routed(self, datamodule: DataModule) -> float:
        """Return the share of held-out normals that are taken for their own category."""
        right = [
            self.detector.labels(batch.image.to(self.device))
            == self.diffusion.labels(batch.category)
            for batch in datamodule.val_batches()
        ]
        share = float(torch.cat(right).float().mean())
        if share < 1:
            warnings.warn(
                f"{1 - share:.1%} of the held-out normals are taken for another category",
                stacklevel=1,
            )
        return share

    def artefacts(self, folder: Path) -> None:
        """Write ``glad/calibration.json`` and ``glad/reconstructions.png``."""
        if self._report:
            write_json(folder / "glad" / "calibration.json", self._report)
        if self.keys.draw and self._data is not None and self._data.val_samples:
            images = held_out_images(self._data, self.synthesis, self.seed, self.device)
            damaged = torch.cat([batch.damaged for batch in images])[: self.keys.draw]
            sheet = drawn_sheet(self.detector, damaged, ["held out"] * len(damaged))
            write_png(folder / "glad" / "reconstructions.png", sheet)
