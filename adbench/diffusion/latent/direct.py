"""Direct conditioning: a small U-Net of its own, trained on normal and on defective windows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.diffusion.latent.conditioning import Conditioning
from adbench.diffusion.latent.inpainting import latent_mask
from adbench.diffusion.latent.preconditioning import Factors, factors
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.latent.settings import GROUPS
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.diffusion.latent.text import TextConditioning
from adbench.diffusion.latent.tokens import MaskEncoder, TokenBank
from adbench.diffusion.schedule import entries, noised
from adbench.errors import UserError

_SPREAD = (-5.0, 1.5)


class DirectConditioning(Conditioning):
    """A U-Net of its own on noisy latent, known surroundings and mask, attending to the tokens.

    The pixel mask is folded into channels, so that its exact outline reaches a coarse latent.

    What is painted is the difference to a smooth filling of the mask from around it, and the
    network is preconditioned by the deviation of every channel of that difference
    (``preconditioning``): untrained, it paints what has the right deviation already. It says mean
    and deviation of that difference, cell by cell, and the best linear estimate follows: a small
    network need not carry the noise of every channel through itself to take it away where a
    defect is smooth.

    Args:
        model: the trained autoencoder, schedule and the keys of the network; its ``prediction``
            is that of another network.
        clusters, feature_tokens, position_tokens, width: of the tokens.
    """

    deviation: Tensor

    def __init__(
        self,
        model: ScratchDiffusion,
        clusters: int,
        *,
        feature_tokens: int,
        position_tokens: int,
        width: int,
    ) -> None:
        super().__init__(model)
        self.bank = TokenBank(clusters, feature_tokens, width)
        self.encoder = MaskEncoder(position_tokens, width)
        self.norm = nn.LayerNorm(width)
        self.network = direct_unet(model, width)
        self.register_buffer("deviation", torch.ones(1, model.channels, 1, 1))

    def measure(self, latents: Tensor, masks: Tensor) -> None:
        inside = (latent_mask(masks, self.model.factor, "any") > 0).squeeze(1)
        apart = (latents - self._base(latents, masks)).movedim(1, -1)[inside]
        found = apart.square().mean(0).sqrt().clamp_min(1e-4)
        self.deviation.copy_(found.view_as(self.deviation))

    def _base(self, clean: Tensor, mask: Tensor) -> Tensor:
        return filled(clean, 1 - latent_mask(mask, self.model.factor, "any"))

    def context(self, cluster: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.norm(torch.cat([self.bank(cluster), self.encoder(mask)], 1))
        return found

    def _factors(self, time: Tensor) -> Factors:
        return factors(self.model.schedule, self.deviation, time)

    def output(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        a = entries(self.model.schedule.alphas_cumprod, time, latent)
        base = self._base(clean, mask)
        apart = latent - a.sqrt() * base
        area = F.avg_pool2d(mask.float(), self.model.factor)
        folded = F.pixel_unshuffle(mask.float(), self.model.factor)
        into = self._factors(time).into
        inputs = torch.cat([into * apart, base / self.deviation, area, folded], 1)
        found: Tensor = self.network(inputs, time, encoder_hidden_states=context).sample
        mean, spread = found.float().chunk(2, dim=1)
        return self._told(apart, time, mean, spread)

    def _told(self, apart: Tensor, time: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Return what the estimate by ``mean`` and ``spread`` adds to that of all channels' own.

        Args:
            apart: noisy difference to the filling, [B, C, h, w].
            mean: of the clean difference, in deviations of its channel.
            spread: logarithm of its deviation in those.
        """
        signal = entries(self.model.schedule.alphas_cumprod, time, apart)
        centre = mean * self.deviation
        own = self.deviation * spread.clamp(*_SPREAD).exp()
        gain = signal.sqrt() * own**2 / (signal * own**2 + 1 - signal)
        clean = centre + gain * (apart - signal.sqrt() * centre)
        _, skip, out = self._factors(time)
        return (clean - skip * apart) / out

    def target(self, clean: Tensor, noise: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        _, skip, out = self._factors(time)
        apart = clean - self._base(clean, mask)
        return (apart - skip * noised(self.model.schedule, apart, time, noise)) / out

    def noise(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        _, skip, out = self._factors(time)
        a = entries(self.model.schedule.alphas_cumprod, time, latent)
        base = self._base(clean, mask)
        said = self.output(latent, time, clean, mask, context)
        x0 = base + skip * (latent - a.sqrt() * base) + out * said
        return (latent - a.sqrt() * x0) / (1 - a).sqrt()


def filled(values: Tensor, known: Tensor) -> Tensor:
    """Return values [B, C, h, w], where ``known`` [B, 1, h, w] is 0 filled from around it.

    Pull and push (Gortler et al. 1996): halved averages of what is known fill the finer grid.
    """
    if min(values.shape[-2:]) == 1 or bool((known > 0).all()):
        return values
    weight = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(values * known, 2, ceil_mode=True) / weight.clamp_min(1e-6)
    coarse = filled(mean, (weight > 0).to(known))
    up = F.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)
    return known * values + (1 - known) * up


def direct_unet(model: ScratchDiffusion, width: int) -> nn.Module:
    """Return a U-Net with cross-attention at the levels of ``diffusion.network.attention``.

    Of its channels the first half are means, the others logarithms of deviations.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    keys = model.keys.network
    down = [
        "CrossAttnDownBlock2D" if level in keys.attention else "DownBlock2D"
        for level in range(len(keys.widths))
    ]
    network = UNet2DConditionModel(
        in_channels=2 * model.channels + 1 + model.factor**2,
        out_channels=2 * model.channels,
        block_out_channels=tuple(keys.widths),
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=keys.blocks,
        cross_attention_dim=width,
        attention_head_dim=tuple(max(1, w // keys.head) for w in keys.widths),
        norm_num_groups=GROUPS,
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    return network


def conditioning_of(
    model: nn.Module, clusters: int, *, feature_tokens: int, position_tokens: int, width: int
) -> Conditioning:
    """Return the conditioning that goes with a latent diffusion model, untrained.

    Raises:
        UserError: neither a model from scratch nor one with a text encoder.
    """
    if isinstance(model, ScratchDiffusion):
        return DirectConditioning(
            model,
            clusters,
            feature_tokens=feature_tokens,
            position_tokens=position_tokens,
            width=width,
        )
    if isinstance(model, StableDiffusion):
        return TextConditioning(
            model, clusters, feature_tokens=feature_tokens, position_tokens=position_tokens
        )
    raise UserError("model=gaa paints with diffusion=scratch or diffusion=sd15")
