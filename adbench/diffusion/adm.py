"""The ADM network (Dhariwal and Nichol 2021) expressed by diffusers' UNet2DModel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from adbench.errors import UserError, nearest

CHANNELS = 3


@dataclass(frozen=True, slots=True)
class AdmShape:
    """Size of an ADM network.

    Attributes:
        width: channels of the finest level, a multiple of 32.
        multipliers: channels of each level in units of ``width``; every level halves the side.
        blocks: residual blocks a level.
        attention: downsampling factors (powers of two) at which blocks have attention.
        head: channels of an attention head.
        dropout: inside residual blocks.
    """

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % 32:
            raise UserError(f"network.width={self.width}: a multiple of 32 is expected (groups)")
        for level, multiplier in enumerate(self.multipliers):
            if self._attends(level) and self.width * multiplier % self.head:
                raise UserError(
                    f"network.head={self.head} does not divide the {self.width * multiplier} "
                    f"channels at downsampling {2**level}"
                )
        if self.width * self.multipliers[-1] % self.head:
            raise UserError(f"network.head={self.head} does not divide the middle's channels")

    def _attends(self, level: int) -> bool:
        return 2**level in self.attention

    @property
    def factor(self) -> int:
        """Image sides must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    def unet_config(self, in_channels: int, out_channels: int) -> dict[str, Any]:
        """Return the keyword arguments of UNet2DModel."""
        levels = range(len(self.multipliers))
        down = [
            "AttnDownBlock2D" if self._attends(i) else "ResnetDownsampleBlock2D" for i in levels
        ]
        up = ["AttnUpBlock2D" if self._attends(i) else "ResnetUpsampleBlock2D" for i in levels]
        return {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "time_embedding_type": "positional",
            "freq_shift": 0,
            "flip_sin_to_cos": True,
            "block_out_channels": tuple(self.width * m for m in self.multipliers),
            "layers_per_block": self.blocks,
            "down_block_types": tuple(down),
            "up_block_types": tuple(reversed(up)),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "dropout": self.dropout,
            "attention_head_dim": self.head,
            "norm_num_groups": 32,
            "attn_norm_num_groups": 32,
            "norm_eps": 1e-5,
            "resnet_time_scale_shift": "scale_shift",
            "class_embed_type": "identity",
        }


PRESETS = {
    # 256 px, of the published weights: 553 M parameters, 1120 GMAC a forward
    "paper": AdmShape(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64),
    # ours: the same levels at half the width, for 128 px on one GPU
    "small": AdmShape(128, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64),
    # ours: 128 px on few cores
    "mini": AdmShape(32, (1, 1, 2, 2, 4), 1, (16,), 32),
    # ours: 64 px on two cores
    "tiny": AdmShape(32, (1, 1, 2, 4), 1, (8,), 32),
}


def adm_shape(keys: Mapping[str, Any]) -> AdmShape:
    """Return the shape that ``keys`` describe: a ``preset`` and what differs from it (not null).

    Raises:
        UserError: an unknown preset or key.
    """
    values = {name: value for name, value in keys.items() if value is not None}
    preset = values.pop("preset", "tiny")
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(f"no network.preset '{preset}'{nearest(str(preset), PRESETS)} ({known})")
    fields = asdict(PRESETS[preset])
    for name in values:
        if name not in fields:
            raise UserError(f"no key '{name}' in network{nearest(name, fields)}")
    plain: dict[str, Any] = {
        k: tuple(v) if isinstance(v, Sequence) else v for k, v in values.items()
    }
    return replace(PRESETS[preset], **plain)


class AdmNetwork(nn.Module):
    """Class-conditional noise predictor with learned variance.

    Args:
        shape: size of the network.
        classes: number of classes; their embedding is added to the time's.
    """

    def __init__(self, shape: AdmShape, classes: int) -> None:
        super().__init__()
        self.shape = shape
        unet: Any = UNet2DModel(**shape.unet_config(CHANNELS, 2 * CHANNELS))
        self.unet: nn.Module = unet
        self.label_embedding = nn.Embedding(classes, 4 * shape.width)
        self._zero_outputs()

    def _zero_outputs(self) -> None:
        """Start every residual branch and the output at zero, as ADM does."""
        for name, module in self.unet.named_modules():
            if name.endswith(("conv2", "to_out.0", "conv_out")):
                for parameter in module.parameters():
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None) -> Tensor:
        """Return [B, 6, H, W]: noise estimate and variance channels.

        Args:
            x: [B, 3, H, W]; noisy images around -1..1.
            timestep: [B] int64, in 0..999.
            label: [B] int64; None stands for the mean of all classes' embeddings.
        """
        if label is None:
            embedding = self.label_embedding.weight.mean(0).expand(len(x), -1)
        else:
            embedding = self.label_embedding(label)
        output: Tensor = self.unet(x, timestep, embedding).sample
        return output


def with_classes(network: AdmNetwork, classes: int, generator: torch.Generator) -> None:
    """Replace the label embedding of ``network`` by ``classes`` freshly drawn rows."""
    old = network.label_embedding.weight
    rows = torch.randn((classes, old.shape[1]), generator=generator)
    network.label_embedding = nn.Embedding.from_pretrained(rows.to(old), freeze=False)
