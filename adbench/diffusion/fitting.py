"""Training of an SDAS model outside Lightning, and the stages that use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.files import regular_file
from adbench.diffusion.adm import AdmNetwork
from adbench.diffusion.checkpoint import Stateful, restored_step, save_training
from adbench.diffusion.classifier import classifier_loss
from adbench.diffusion.ema import update_average
from adbench.diffusion.hybrid import HybridLoss, drawn_terms
from adbench.diffusion.model import SdasModel, load_model, save_model
from adbench.diffusion.openai import load_openai
from adbench.diffusion.pool import make_pool
from adbench.diffusion.settings import FitKeys, PoolKeys
from adbench.runs.stages import Stage, StageContext

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

__all__ = ["FitKeys", "fit_model", "resized", "sdas_stages", "training_loss"]


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images [B, 3, H, W] at ``size``, antialiased."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def training_loss(
    network: AdmNetwork,
    model: SdasModel,
    image: Tensor,
    label: Tensor,
    gamma: float,
    generator: torch.Generator,
) -> tuple[Tensor, HybridLoss, Tensor]:
    """Return the total, the terms per image and the classifier's loss (0 without one).

    Args:
        network: the live network; the model's own holds the average.
        image: [B, 3, H, W] in 0..1 at the model's size.
    """
    terms = drawn_terms(network, model.schedule, image, label, generator)
    total = terms.total(gamma, len(model.schedule))
    guide = total.new_zeros(())
    if model.classifier is not None:
        guide = classifier_loss(model.classifier, model.schedule, image, label, generator)
    return total + guide, terms, guide.detach()


def trained_parameters(network: AdmNetwork, model: SdasModel) -> list[torch.nn.Parameter]:
    """Return what is trained: the live network and the classifier where there is one."""
    return [*network.parameters(), *(model.classifier.parameters() if model.classifier else [])]


def leave_gradient(
    network: AdmNetwork,
    model: SdasModel,
    image: Tensor,
    label: Tensor,
    gamma: float,
    generator: torch.Generator,
    *,
    micro_batch: int = 0,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> dict[str, Tensor]:
    """Leave the batch's mean gradient in the parameters; return the batch's mean losses.

    Micro-batches weigh by their size: the gradient is a mean, not a sum, whatever their number.

    Args:
        image: [B, 3, H, W] in 0..1 at any size; the model's is made here.
        micro_batch: images that pass at a time; 0: all.
        backward: leaves the gradient of a loss in the parameters.
    """
    image = resized(image, model.size)
    size = micro_batch or len(image)
    sums = torch.zeros(4, device=image.device)
    for some, names in zip(image.split(size), label.split(size), strict=True):
        share = len(some) / len(image)
        loss, terms, guide = training_loss(network, model, some, names, gamma, generator)
        backward(loss * share)
        parts = [loss.detach(), terms.mse.detach().mean(), terms.vb.detach().mean(), guide]
        sums += share * torch.stack(parts)
    return dict(zip(("loss", "mse", "vb", "classifier"), sums, strict=True))


def new_model(keys: FitKeys, classes: list[str], seed: int) -> tuple[SdasModel, AdmNetwork]:
    """Return an untrained model (its network the average) and the network to train."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = (keys.size, keys.size)
        guide = None if keys.classifier is None else keys.classifier.given()
        model = SdasModel(keys.network.given(), classes, size, guide)
        if keys.weights is not None:
            load_openai(model.network, Path(keys.weights))
        live = AdmNetwork(model.network.shape, len(classes))
    live.load_state_dict(model.network.state_dict())
    model.network.requires_grad_(False)
    return model, live


def fit_model(
    keys: FitKeys,
    datamodule: DataModule,
    *,
    seed: int,
    scratch: Path,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> SdasModel:
    """Train on the training normals of ``datamodule``; resume where ``scratch`` has a checkpoint.

    A resumed training equals an uninterrupted one: what a step draws follows from its number.
    """
    classes = sorted({sample.category for sample in datamodule.train_samples})
    model, live = new_model(keys, classes, seed)
    model, live = model.to(device), live.to(device)
    trained = trained_parameters(live, model)
    optimizer = torch.optim.Adam(trained, lr=keys.learning_rate)
    file = scratch / "sdas.ckpt"
    parts: dict[str, Stateful] = {"model": model, "live": live, "optimizer": optimizer}
    done = restored_step(file, parts)
    live.train()
    for step in range(done, keys.steps):
        generator = torch.Generator(device).manual_seed(_step_seed(seed, step))
        image, label = _batch(datamodule, model, keys.batch_size, seed, step, device)
        optimizer.zero_grad(set_to_none=True)
        losses = leave_gradient(live, model, image, label, keys.gamma, generator)
        torch.nn.utils.clip_grad_norm_(trained, keys.clip)
        optimizer.step()
        update_average(model.network, live, keys.decay, step + 1)
        if (step + 1) % keys.save_every == 0:
            save_training(file, step + 1, parts)
            say(f"sdas: step {step + 1} of {keys.steps}, mse {losses['mse'].item():.4f}")
    return model.eval()


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.default_rng([seed, step, 0xD1FF]).integers(2**53))


def _batch(
    datamodule: DataModule, model: SdasModel, count: int, seed: int, step: int, device: Any
) -> tuple[Tensor, Tensor]:
    samples = datamodule.train_samples
    chosen = np.random.default_rng([seed, step]).integers(0, len(samples), count)
    image = datamodule.train_images(torch.from_numpy(chosen)).to(device)
    label = model.labels([samples[i].category for i in chosen]).to(device)
    return image, label


def sdas_stages(fit: FitKeys, pool: PoolKeys, *, seed: int, device: str = "cpu") -> list[Stage]:
    """Return stages ``sdas`` (train, ``sdas.safetensors``) and ``pool`` (draw) of another method.

    The artefact of ``pool`` is laid out as ``make_pool`` says; images are drawn at the data
    module's size.
    """

    def train(context: StageContext) -> None:
        model = fit_model(
            fit,
            context.datamodule,
            seed=seed,
            scratch=context.scratch,
            device=device,
            say=context.say,
        )
        save_model(model, context.folder)

    def draw(context: StageContext) -> None:
        model = load_model(context.stages / "sdas", device)
        size = context.datamodule.image_size
        made = context.scratch / "pool"
        make_pool(model, made, pool, seed=seed, size=size, say=context.say)
        for item in sorted(made.iterdir()):
            item.rename(context.folder / item.name)

    files = (regular_file(fit.weights, "synthesis.fit.weights"),) if fit.weights else ()
    return [
        Stage("sdas", train, {**fit.document, "seed": seed}, files=files),
        Stage("pool", draw, {**asdict(pool), "seed": seed}, inputs=("sdas",)),
    ]
