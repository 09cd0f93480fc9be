"""The ADM network (Dhariwal and Nichol 2021) expressed by diffusers' UNet2DModel."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from adbench.diffusion.settings import PRESETS, AdmShape, adm_shape

__all__ = ["CHANNELS", "PRESETS", "AdmNetwork", "AdmShape", "adm_shape", "unet_config"]
CHANNELS = 3


def unet_config(shape: AdmShape, in_channels: int, out_channels: int) -> dict[str, Any]:
    """Return the keyword arguments of UNet2DModel for a network of ``shape``."""
    levels = range(len(shape.multipliers))
    down = ["AttnDownBlock2D" if shape.attends(i) else "ResnetDownsampleBlock2D" for i in levels]
    up = ["AttnUpBlock2D" if shape.attends(i) else "ResnetUpsampleBlock2D" for i in levels]
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "block_out_channels": tuple(shape.width * m for m in shape.multipliers),
        "layers_per_block": shape.blocks,
        "down_block_types": tuple(down),
        "up_block_types": tuple(reversed(up)),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "dropout": shape.dropout,
        "attention_head_dim": shape.head,
        "norm_num_groups": 32,
        "attn_norm_num_groups": 32,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "identity",
    }


class AdmNetwork(nn.Module):
    """Class-conditional noise predictor with learned variance.

    Args:
        shape: size of the network.
        classes: number of classes; their embedding is added to the time's.
    """

    def __init__(self, shape: AdmShape, classes: int) -> None:
        super().__init__()
        self.shape = shape
        unet: Any = UNet2DModel(**unet_config(shape, CHANNELS, 2 * CHANNELS))
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
