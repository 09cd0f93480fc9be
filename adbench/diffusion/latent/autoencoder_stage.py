"""The stage that fits the autoencoder of ``diffusion=scratch`` and measures what it preserves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from adbench.diffusion.checkpoint import Stateful, restored_step, save_training
from adbench.diffusion.latent.autoencoders import PatchPca, SmallAutoencoder
from adbench.diffusion.latent.base import Damage, Features
from adbench.diffusion.latent.preservation import measure, write_report
from adbench.runs.stages import Stage, StageContext

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule
    from adbench.diffusion.latent.scratch import ScratchDiffusion

NAME = "autoencoder"
_LEAST = 1e-3  # of a channel that does not vary in the training images
_PATCHES = 200_000  # patches that principal components are fitted to


def autoencoder_stage(
    model: ScratchDiffusion,
    features: Features | None,
    synthesis: Damage | None,
    *,
    seed: int,
    size: tuple[int, int],
    device: torch.device,
    check: Callable[[Any], None],
) -> Stage:
    """Return the stage ``autoencoder``: ``autoencoder.safetensors`` and ``preservation.json``."""

    def run(context: StageContext) -> None:
        check(context.datamodule)
        if synthesis is not None:
            synthesis.prepare(context.datamodule)
        fit_autoencoder(model, features, synthesis, context, seed=seed, device=device)
        measure_scale(model, context.datamodule, device)
        state = {
            name: value.detach().cpu().contiguous()
            for name, value in model.state_dict().items()
            if not name.startswith("network.")
        }
        save_file(state, context.folder / "autoencoder.safetensors")
        if features is not None and synthesis is not None and context.datamodule.val_samples:
            report = measure(model, features, synthesis, context.datamodule, seed, device)
            write_report(report, context.folder)
            for line in report.lines():
                context.say(line)

    config = {
        **asdict(model.keys.autoencoder),
        "seed": seed,
        "size": list(size),
        "features": getattr(features, "record", None),
        "synthesis": _described(synthesis),
    }
    return Stage(NAME, run, config)


def _described(synthesis: Damage | None) -> dict[str, Any]:
    """Return class and plain attributes, by which the stage knows that its draws changed."""
    plain = (int, float, str, tuple, list, dict, Path)
    values = vars(synthesis).items() if synthesis is not None else ()
    found = {k: v for k, v in values if isinstance(v, plain) and k != "stage_folder"}
    return {"kind": type(synthesis).__name__, **found}


def fit_autoencoder(
    model: ScratchDiffusion,
    features: Features | None,
    synthesis: Damage | None,
    context: StageContext,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Fit the model's autoencoder to normal and synthetically damaged training images.

    Without the damaged ones it could not carry a defect through. An interrupted training goes
    on where its last checkpoint was: what a step draws follows from its number.
    """
    if isinstance(model.autoencoder, PatchPca):
        share = model.keys.autoencoder.damaged
        patches = _patches(model.autoencoder, context.datamodule, synthesis, share, seed)
        variances = model.autoencoder.fit(patches.to(device))
        kept = float(variances[: model.channels].sum() / variances.sum())
        context.say(f"autoencoder: {model.channels} components keep {kept:.2%} of the variance")
    if isinstance(model.autoencoder, SmallAutoencoder):
        with torch.enable_grad():
            _Training(model, features, synthesis, context, seed, device).run()


def _damaged(
    image: Tensor,
    index: Tensor,
    synthesis: Damage | None,
    share: float,
    generator: torch.Generator,
) -> Tensor:
    """Return images [B, 3, H, W] of which about ``share`` carry synthetic defects."""
    if synthesis is None or share == 0:
        return image
    draw = torch.rand(len(image), generator=generator, device=image.device) < share
    rows = draw.nonzero().squeeze(1)
    if not len(rows):
        return image
    made = synthesis(
        image[rows], foreground=synthesis.foreground_masks(index[rows]), generator=generator
    )
    return image.index_copy(0, rows, made.image)


class _Training:
    """The loop, with its state on disk."""

    def __init__(
        self,
        model: ScratchDiffusion,
        features: Features | None,
        synthesis: Damage | None,
        context: StageContext,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.network = model, model.autoencoder.requires_grad_(True).train()
        self.keys, self.every = model.keys.autoencoder, model.keys.save_every
        self.features, self.synthesis = features, synthesis
        self.context, self.seed, self.device = context, seed, device
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.keys.learning_rate)
        self.file = context.scratch / "autoencoder.ckpt"

    def run(self) -> None:
        parts: dict[str, Stateful] = {"network": self.network, "optimizer": self.optimizer}
        first, start = restored_step(self.file, parts, self.device), time.perf_counter()
        for step in range(first, self.keys.steps):
            rate = 0.5 * (1 + math.cos(math.pi * step / self.keys.steps))
            self.optimizer.param_groups[0]["lr"] = self.keys.learning_rate * rate
            loss = self._step(step)
            if (step + 1) % self.every == 0:
                save_training(self.file, step + 1, parts)
                left = (time.perf_counter() - start) / (step + 1 - first)
                left *= (self.keys.steps - step - 1) / 60
                self.context.say(
                    f"autoencoder: step {step + 1} of {self.keys.steps}, loss {loss:.4f}, "
                    f"{left:.1f} min left"
                )
        self.network.requires_grad_(False).eval()

    def _step(self, step: int) -> float:
        state = int(np.random.default_rng([self.seed, step, 0xAE]).integers(2**53))
        generator = torch.Generator(self.device).manual_seed(state)
        image = self._image(step, generator) * 2 - 1
        posterior = self.network.posterior(image)
        made = self.network.decode(posterior.sample(generator))
        loss = self._loss(image, made) + self.keys.kl * posterior.divergence()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _image(self, step: int, generator: torch.Generator) -> Tensor:
        count = len(self.context.datamodule.train_samples)
        rng = np.random.default_rng([self.seed, step])
        index = torch.from_numpy(rng.integers(0, count, self.keys.batch_size))
        image = self.context.datamodule.train_images(index).to(self.device)
        index = index.to(self.device)
        image = _damaged(image, index, self.synthesis, self.keys.damaged, generator)
        return _cropped(image, self.keys.crop, rng)

    def _loss(self, image: Tensor, made: Tensor) -> Tensor:
        loss = F.l1_loss(made, image)
        if self.keys.gradient:
            loss = loss + self.keys.gradient * gradient_error(made, image)
        if self.keys.perceptual and self.features is not None:
            with torch.no_grad():
                wanted = self.features((image + 1) / 2)
            found = self.features((made + 1) / 2)
            errors = [
                (1 - F.cosine_similarity(a, b)).mean() for a, b in zip(found, wanted, strict=True)
            ]
            loss = loss + self.keys.perceptual * torch.stack(errors).mean()
        return loss


def gradient_error(made: Tensor, image: Tensor) -> Tensor:
    """Return the mean absolute error of horizontal and vertical differences."""
    rows = F.l1_loss(made.diff(dim=-2), image.diff(dim=-2))
    return rows + F.l1_loss(made.diff(dim=-1), image.diff(dim=-1))


def _cropped(image: Tensor, crop: int | None, rng: np.random.Generator) -> Tensor:
    height, width = image.shape[-2:]
    if crop is None or crop >= min(height, width):
        return image
    parts = [
        image[row : row + 1, :, y : y + crop, x : x + crop]
        for row in range(len(image))
        for y, x in [(rng.integers(height - crop + 1), rng.integers(width - crop + 1))]
    ]
    return torch.cat(parts)


def _patches(
    autoencoder: PatchPca,
    datamodule: DataModule,
    synthesis: Damage | None,
    share: float,
    seed: int,
) -> Tensor:
    """Return at most ``_PATCHES`` patches [N, 192] of normal and damaged images in -1..1."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, _PATCHES // max(1, len(datamodule.train_samples)))
    found = []
    for batch in datamodule.train_batches():
        image = _damaged(batch.image, batch.index, synthesis, share, generator) * 2 - 1
        rows = autoencoder.folded(image).flatten(2).mT
        for row in rows:
            found.append(row[torch.randperm(len(row), generator=generator)[:each]])
    return torch.cat(found)


@torch.no_grad()
def measure_scale(model: ScratchDiffusion, datamodule: DataModule, device: torch.device) -> None:
    """Set shift and scale so that training latents have mean 0 per channel and deviation 1 overall.

    One scale for all channels: noise is then white in the picture too, and what varies most (a
    patch's brightness) is lost last. With a scale for each channel the components of a patch PCA
    drown together, and patches come back with brightnesses of their own.
    """
    model.shift.zero_()
    model.scale.fill_(1)
    sums = torch.zeros(2, model.channels, dtype=torch.float64, device=device)
    count = 0
    for latent in _latents(model, datamodule, device):
        flat = latent.double().transpose(0, 1).flatten(1)
        sums += torch.stack((flat.sum(1), flat.square().sum(1)))
        count += flat.shape[1]
    mean, square = sums / count
    variance = square - mean.square()
    deviation = variance.mean().clamp_min(1e-8).sqrt()
    model.shift.copy_(mean.float().view_as(model.shift))
    model.scale.fill_(float(1 / deviation))
    own = (variance.clamp_min(0).sqrt() / deviation).clamp_min(_LEAST)
    model.deviation.copy_(own.float().view_as(model.deviation))


def _latents(
    model: ScratchDiffusion, datamodule: DataModule, device: torch.device
) -> Iterator[Tensor]:
    for batch in datamodule.train_batches():
        yield model.encode(batch.image.to(device))
