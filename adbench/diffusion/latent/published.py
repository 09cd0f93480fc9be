"""A text-conditioned latent diffusion model made of diffusers' parts, whatever their weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adbench.diffusion.latent.base import NoiseNetwork
from adbench.diffusion.latent.prompt_attention import share_prompts
from adbench.diffusion.schedule import Schedule
from adbench.errors import UserError

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}


def part(config: Mapping[str, Any]) -> nn.Module:
    """Return the untrained network that a ``config.json`` of diffusers describes.

    Raises:
        UserError: it describes no network that we know how to use.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

    known = {kind.__name__: kind for kind in (AutoencoderKL, AutoencoderTiny, UNet2DConditionModel)}
    name = str(config.get("_class_name"))
    if name not in known:
        raise UserError(f"a part of class {name} is not supported ({', '.join(known)} are)")
    made: nn.Module = known[name].from_config(dict(config))  # type: ignore[attr-defined]
    return made


def schedule_of(config: Mapping[str, Any]) -> tuple[Schedule, str]:
    """Return the noise schedule of a ``scheduler_config.json`` and what the network predicts.

    Raises:
        UserError: a schedule or a prediction that is not supported.
    """
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    elif kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:
        raise UserError(f"scheduler: beta_schedule={kind} is not supported (scaled_linear, linear)")
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in _PREDICTIONS:
        raise UserError(f"scheduler: prediction_type={prediction} is not supported")
    schedule = Schedule(torch.arange(steps), betas, torch.cumprod(1 - betas, 0))
    return schedule, _PREDICTIONS[prediction]


class PublishedDiffusion(NoiseNetwork):
    """U-Net, autoencoder, schedule and prompts; nothing is read from disk here.

    Args:
        unet, vae, scheduler: configurations as diffusers stores them.
        guidance: weight w of e0 + w (e1 - e0); 1 leaves the unguided branch out.
        precision: of the frozen autoencoder.
        classes: category names.
        tokens: length of a prompt.

    Attributes:
        prompts: [1 + classes, tokens, width]; the first is the unguided branch's.
    """

    prompts: Tensor

    def __init__(
        self,
        *,
        unet: Mapping[str, Any],
        vae: Mapping[str, Any],
        scheduler: Mapping[str, Any],
        guidance: float = 9.0,
        precision: str = "float32",
        classes: Sequence[str] = ("normal",),
        tokens: int = 77,
    ) -> None:
        super().__init__()
        self._parts = {"unet": dict(unet), "vae": dict(vae), "scheduler": dict(scheduler)}
        self.network, self.vae = part(unet), part(vae)
        share_prompts(self.network)
        self.schedule, self.prediction = schedule_of(scheduler)
        self.guidance, self.guided = guidance, guidance != 1
        self.precision = precision
        self.classes = list(classes)
        config: Any = self.vae.config
        self.tiny = vae["_class_name"] == "AutoencoderTiny"
        widths = config.encoder_block_out_channels if self.tiny else config.block_out_channels
        self.factor = int(2 ** (len(widths) - 1))
        self.channels = int(config.latent_channels)
        levels = len(self.network.config.block_out_channels)  # type: ignore[union-attr, arg-type]
        self.size_multiple = self.factor * 2 ** (levels - 1)
        width = int(unet["cross_attention_dim"])
        self.register_buffer("prompts", torch.zeros(1 + len(self.classes), tokens, width))
        self.vae.requires_grad_(False)
        self.vae.to(getattr(torch, precision))
        self._check()

    def _check(self) -> None:
        wanted = int(self.network.config.in_channels)  # type: ignore[union-attr, arg-type]
        if wanted != self.channels:
            raise UserError(
                f"the U-Net takes latents of {wanted} channels, the autoencoder makes "
                f"{self.channels}: they belong to different models"
            )

    @property
    def config(self) -> dict[str, Any]:
        return {
            "kind": "published",
            **self._parts,
            "guidance": self.guidance,
            "precision": self.precision,
            "classes": list(self.classes),
            "tokens": int(self.prompts.shape[1]),
        }

    @property
    def _scale(self) -> float:
        return float(self.vae.config.scaling_factor)  # type: ignore[union-attr, arg-type]

    def encode(self, image: Tensor) -> Tensor:
        pixels = (image * 2 - 1).to(next(self._weights()).dtype)
        encoded = self.vae.encode(pixels)  # type: ignore[operator]
        latent: Tensor = encoded.latents if self.tiny else encoded.latent_dist.mean
        return latent.float() * self._scale

    def decode(self, latent: Tensor) -> Tensor:
        stored = (latent / self._scale).to(next(self._weights()).dtype)
        made: Tensor = self.vae.decode(stored).sample  # type: ignore[operator]
        return (made.float() + 1) / 2

    def _weights(self) -> Iterator[nn.Parameter]:
        return self.vae.parameters()

    def output(self, network: nn.Module, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self._said(network, latent, time, label + 1)

    def _said(self, network: nn.Module, latent: Tensor, time: Tensor, rows: Tensor) -> Tensor:
        found = network(
            latent,
            time.to(latent.device),
            encoder_hidden_states=self.prompts,
            cross_attention_kwargs={"prompt_rows": rows.to(latent.device)},
        )
        said: Tensor = found.sample
        return said.float()

    def noise(self, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return the estimate of the noise; with guidance both branches in one batch."""
        if not self.guided:
            return super().noise(latent, time, label)
        rows = torch.cat((torch.zeros_like(label), label + 1))
        twice, times = torch.cat((latent, latent)), torch.cat((time, time))
        said = self.noise_of(self._said(self.network, twice, times, rows), twice, times)
        plain, prompted = said.chunk(2)
        return plain + self.guidance * (prompted - plain)

    def set_prompts(self, prompts: Tensor) -> None:
        """Take embeddings [1 + classes, tokens, width].

        Raises:
            UserError: they have not the width that the U-Net attends to.
        """
        width = self.prompts.shape[-1]
        if prompts.dim() != 3 or prompts.shape[-1] != width:
            raise UserError(
                f"prompt embeddings of shape {tuple(prompts.shape)}: the U-Net attends to tokens "
                f"of width {width}"
            )
        self.prompts = prompts.to(self.prompts)
