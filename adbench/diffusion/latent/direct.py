"""Conditioning on a defect's cluster and mask: token banks, mask encoder, two ways into a U-Net.

``DirectConditioning`` trains a small network of its own ("direct conditioning, scratch");
``TextConditioning`` passes the tokens through the text encoder of a published, frozen model.
"""

from __future__ import annotations

import importlib.util
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.latent.settings import GROUPS
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.errors import UserError

_SIDE = 64  # pixels of the masks that the encoder sees
_FUSED, _POOLED, _FACTS = 64, 4, 4


class MaskEncoder(nn.Module):
    """A mask's position tokens e_p [B, n, d], by a small pyramid (E of the paper, under 1 M).

    Args:
        tokens, width: n and d.
        base: channels of the first of four levels.
    """

    def __init__(self, tokens: int, width: int, base: int = 16) -> None:
        super().__init__()
        widths = [1, base, 2 * base, 4 * base, 8 * base]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
            )
            for inputs, outputs in itertools.pairwise(widths)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(w, _FUSED, 1) for w in widths[2:])
        self.head = nn.Linear(_FUSED * _POOLED**2 + _FACTS, tokens * width)
        self.shape = (tokens, width)

    def forward(self, mask: Tensor) -> Tensor:
        """Return e_p of masks [B, 1, H, W], 0..1."""
        mask = F.adaptive_avg_pool2d(mask.float(), (_SIDE, _SIDE))
        x, maps = mask * 2 - 1, []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        fused = self.lateral[-1](maps[-1])
        for lateral, own in zip(reversed(self.lateral[:-1]), reversed(maps[1:-1]), strict=True):
            grown = F.interpolate(fused, own.shape[-2:], mode="bilinear", align_corners=False)
            fused = lateral(own) + grown
        pooled = F.adaptive_avg_pool2d(fused, _POOLED).flatten(1)
        found: Tensor = self.head(torch.cat([pooled, mask_facts(mask)], 1))
        return found.view(len(mask), *self.shape)


def mask_facts(mask: Tensor) -> Tensor:
    """Return centre x, y, root of the area and aspect [B, 4] of masks [B, 1, H, W]."""
    height, width = mask.shape[-2:]
    y = torch.linspace(-1, 1, height, device=mask.device).view(1, 1, -1, 1)
    x = torch.linspace(-1, 1, width, device=mask.device).view(1, 1, 1, -1)
    area = mask.sum((1, 2, 3)).clamp_min(1e-6)
    cx, cy = ((mask * v).sum((1, 2, 3)) / area for v in (x, y))
    sx = ((mask * (x - cx.view(-1, 1, 1, 1)) ** 2).sum((1, 2, 3)) / area).clamp_min(1e-6).sqrt()
    sy = ((mask * (y - cy.view(-1, 1, 1, 1)) ** 2).sum((1, 2, 3)) / area).clamp_min(1e-6).sqrt()
    return torch.stack([cx, cy, (area / (height * width)).sqrt(), (sx / sy).log()], 1)


class TokenBank(nn.Module):
    """Feature tokens e_f of every cluster, each a parameter of its own.

    One block a cluster: a cluster that no sample of a batch shows has no gradient, so that the
    optimiser's momentum does not move it. Two more stand for "normal" and for "unconditioned".

    Args:
        clusters: K; numbers K and K + 1 are normal and unconditioned.
        tokens, width: of a block.
        start: [width]; what every token begins as; None draws them.
    """

    def __init__(self, clusters: int, tokens: int, width: int, start: Tensor | None = None) -> None:
        super().__init__()
        self.clusters = clusters
        drawn = [
            0.02 * torch.randn(tokens, width) + (0 if start is None else start.detach())
            for _ in range(clusters + 2)
        ]
        self.blocks = nn.ParameterList(nn.Parameter(block.clone()) for block in drawn)

    @property
    def normal(self) -> int:
        return self.clusters

    @property
    def null(self) -> int:
        return self.clusters + 1

    def forward(self, cluster: Tensor) -> Tensor:
        """Return e_f [B, n, d] of clusters [B]."""
        return torch.stack([self.blocks[number] for number in cluster.tolist()])


class Conditioning(nn.Module, ABC):
    """What paints a defect of a cluster at a mask.

    Attributes:
        bank, encoder: tokens.
        model: autoencoder and schedule.
    """

    bank: TokenBank
    encoder: MaskEncoder

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__()
        # not a submodule: what is trained and stored is the conditioning alone
        self._model = [model]

    @property
    def model(self) -> LatentDiffusion:
        return self._model[0]

    @abstractmethod
    def context(self, cluster: Tensor, mask: Tensor) -> Tensor:
        """Return the cross-attention context [B, n, d] of clusters [B] and masks [B, 1, H, W]."""

    @abstractmethod
    def output(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        """Return the network's answer to noisy latents [B, C, h, w] at levels [B].

        Args:
            clean: latents of the canvas (what lies outside the mask is known).
            mask: [B, 1, H, W] at the pixels.
        """

    def noise(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        """Return the estimate of the noise."""
        said = self.output(latent, time, clean, mask, context)
        return self.model.noise_of(said, latent, time)


class DirectConditioning(Conditioning):
    """A U-Net of its own on noisy latent, known surroundings and mask, attending to the tokens.

    The pixel mask is folded into channels, so that its exact outline reaches a coarse latent.

    Args:
        model: the trained autoencoder, schedule and the keys of the network.
        clusters, feature_tokens, position_tokens, width: of the tokens.
    """

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

    def context(self, cluster: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.norm(torch.cat([self.bank(cluster), self.encoder(mask)], 1))
        return found

    def output(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        area = F.avg_pool2d(mask.float(), self.model.factor)
        folded = F.pixel_unshuffle(mask.float(), self.model.factor)
        inputs = torch.cat([latent, (1 - area) * clean, area, folded], 1)
        found: Tensor = self.network(inputs, time, encoder_hidden_states=context).sample
        return found.float()


def direct_unet(model: ScratchDiffusion, width: int) -> nn.Module:
    """Return a U-Net with cross-attention at the levels of ``diffusion.network.attention``."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    keys = model.keys.network
    down = [
        "CrossAttnDownBlock2D" if level in keys.attention else "DownBlock2D"
        for level in range(len(keys.widths))
    ]
    network = UNet2DConditionModel(
        in_channels=2 * model.channels + 1 + model.factor**2,
        out_channels=model.channels,
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


class TextConditioning(Conditioning):
    """Tokens in the place of a word of the prompt, through a published model's text encoder.

    Network, autoencoder and text encoder stay frozen; only tokens and mask encoder learn.

    Args:
        model: Stable Diffusion from a folder.
        clusters, feature_tokens, position_tokens: of the tokens.
        prompt: its ``*`` is replaced.

    Raises:
        UserError: the model has no text encoder or tokenizer, or transformers is missing.
    """

    def __init__(
        self,
        model: StableDiffusion,
        clusters: int,
        *,
        feature_tokens: int,
        position_tokens: int,
        prompt: str = "a photo of *",
    ) -> None:
        super().__init__(model)
        tokenizer, text = text_parts(model.folder)
        self._text = [text]
        table = text.get_input_embeddings().weight
        width = int(table.shape[1])
        anomaly = tokenizer("anomaly", add_special_tokens=False).input_ids
        self.bank = TokenBank(clusters, feature_tokens, width, table[anomaly].mean(0))
        self.encoder = MaskEncoder(position_tokens, width, 32)
        count = feature_tokens + position_tokens
        before = tokenizer(prompt.partition("*")[0].strip(), add_special_tokens=False).input_ids
        star = tokenizer("*", add_special_tokens=False).input_ids[:1]
        length = int(tokenizer.model_max_length)
        ids = [tokenizer.bos_token_id, *before, *star * count, tokenizer.eos_token_id]
        if len(ids) > length:
            raise UserError(
                f"model.concept.feature_tokens and position_tokens: {count} tokens and the prompt "
                f"take {len(ids)} places, the text encoder has {length}"
            )
        self.at = slice(1 + len(before), 1 + len(before) + count)
        padded = ids + [tokenizer.pad_token_id] * (length - len(ids))
        self.register_buffer("ids", torch.tensor(padded), persistent=False)

    def context(self, cluster: Tensor, mask: Tensor) -> Tensor:
        rows = torch.cat([self.bank(cluster), self.encoder(mask)], 1)
        text = self._text[0].to(rows.device)

        def replaced(module: nn.Module, inputs: Any, found: Tensor) -> Tensor:
            del module, inputs
            after = found[:, self.at.stop :]
            return torch.cat([found[:, : self.at.start], rows.to(found), after], 1)

        hook = text.get_input_embeddings().register_forward_hook(replaced)
        try:
            ids: Any = self.ids
            found: Tensor = text(ids.expand(len(rows), -1))[0]
        finally:
            hook.remove()
        return found.float()

    def output(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        del clean, mask
        rows = torch.arange(len(context), device=latent.device)
        found: Tensor = self.model.network(
            latent,
            time,
            encoder_hidden_states=context,
            cross_attention_kwargs={"prompt_rows": rows},
        ).sample
        return found.float()


def check_text_parts(folder: Path) -> None:
    """Raise UserError where a folder has no text encoder: what is needed, and what needs none."""
    missing = [name for name in ("tokenizer", "text_encoder") if not (folder / name).is_dir()]
    if missing:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}: GAA's tokens pass through the text "
            "encoder; add it, or take diffusion=scratch or diffusion=none"
        )
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "model=gaa with diffusion=sd15 needs the package transformers (pip install "
            "transformers); diffusion=none needs nothing"
        )


def text_parts(folder: Path) -> tuple[Any, Any]:
    """Return tokenizer and frozen text encoder of a folder in the published layout.

    Raises:
        UserError: as ``check_text_parts``.
    """
    check_text_parts(folder)
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    text = CLIPTextModel.from_pretrained(
        folder / "text_encoder", local_files_only=True, use_safetensors=True
    )
    return tokenizer, text.eval().requires_grad_(False)


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


def latent_mask(mask: Tensor, factor: int, how: str) -> Tensor:
    """Return pixel masks [B, 1, H, W] at latent size, as weights of the loss or of the blend.

    ``area``: share of each cell that is covered: never empty, sums to area / factor^2. ``any``:
    1 where a pixel is. ``bilinear05``: cut at a half after bilinear shrinking (AnomalyDiffusion's
    code), under which small masks vanish.
    """
    mask = mask.float()
    if how == "area":
        return F.avg_pool2d(mask, factor)
    if how == "any":
        return F.max_pool2d(mask, factor)
    size = [side // factor for side in mask.shape[-2:]]
    small = F.interpolate(mask, size, mode="bilinear", align_corners=False, antialias=True)
    return (small >= 0.5).float()


def masked_loss(error: Tensor, weight: Tensor, norm: str) -> Tensor:
    """Return the loss of each sample [B] (Eq. 3) from squared errors [B, C, h, w].

    ``masked``: mean over the mask, so that a small defect counts as a large one. ``full``: over
    all cells, as printed.
    """
    total = (error * weight).sum((1, 2, 3))
    if norm == "full":
        return total / error[0].numel()
    return total / (error.shape[1] * weight.sum((1, 2, 3))).clamp_min(1e-6)


@torch.no_grad()
def inpainted(
    painter: Conditioning,
    clean: Tensor,
    mask: Tensor,
    cluster: Tensor,
    *,
    steps: int,
    eta: float,
    guidance: float,
    generator: torch.Generator,
    clamp: float | None = 6.0,
) -> Tensor:
    """Return latents [B, C, h, w] with the clusters' defects at the masks (blended latents).

    At each step what lies outside the mask is the canvas at that level; after the last one it is
    the canvas itself, which the code of AnomalyDiffusion leaves out.

    Args:
        clean: latents of the canvas.
        mask: [B, 1, H, W] at the pixels.
        cluster: [B].
        eta: 0 for a deterministic walk.
        clamp: of the clean estimate, in deviations; None leaves it.
    """
    model = painter.model
    signal = model.schedule.alphas_cumprod
    blend = latent_mask(mask, model.factor, "any")
    contexts = [painter.context(cluster, mask)]
    if guidance != 1:
        null = torch.full_like(cluster, painter.bank.null)
        contexts.append(painter.context(null, mask))
    levels = torch.linspace(len(signal) - 1, 0, steps).round().long().tolist()
    z = _normal(clean, generator)
    for number, level in enumerate(levels):
        here = float(signal[level])
        z = blend * z + (1 - blend) * (
            here**0.5 * clean + (1 - here) ** 0.5 * _normal(clean, generator)
        )
        time = torch.full((len(z),), level, device=z.device)
        eps = _guided(painter, z, time, clean, mask, contexts, guidance)
        x0 = (z - (1 - here) ** 0.5 * eps) / here**0.5
        if clamp is not None:
            x0 = x0.clamp(-clamp, clamp)
            eps = (z - here**0.5 * x0) / (1 - here) ** 0.5
        if number + 1 == len(levels):
            z = x0
            break
        after = float(signal[levels[number + 1]])
        sigma = eta * ((1 - after) / (1 - here) * (1 - here / after)) ** 0.5
        z = after**0.5 * x0 + max(1 - after - sigma**2, 0.0) ** 0.5 * eps
        if sigma:
            z = z + sigma * _normal(clean, generator)
    return blend * z + (1 - blend) * clean


def _guided(
    painter: Conditioning,
    z: Tensor,
    time: Tensor,
    clean: Tensor,
    mask: Tensor,
    contexts: Sequence[Tensor],
    guidance: float,
) -> Tensor:
    if len(contexts) == 1:
        return painter.noise(z, time, clean, mask, contexts[0])
    two = [torch.cat([v, v]) for v in (z, time, clean, mask)]
    told, plain = painter.noise(two[0], two[1], two[2], two[3], torch.cat(list(contexts))).chunk(2)
    return plain + guidance * (told - plain)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)
