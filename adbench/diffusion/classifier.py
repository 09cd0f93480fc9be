"""A classifier of noisy images, for guidance towards a category."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.diffusion.adm import CHANNELS, AdmShape, unet_config
from adbench.diffusion.sampling import Guidance
from adbench.diffusion.schedule import Schedule, noised


class NoisyClassifier(nn.Module):
    """The contracting half of an ADM network, its output averaged over positions.

    The authors pool by attention, which diffusers does not have; their classifier's weights
    cannot be loaded here.
    """

    def __init__(self, shape: AdmShape, classes: int) -> None:
        super().__init__()
        config: dict[str, Any] = unet_config(shape, CHANNELS, CHANNELS)
        unet: Any = UNet2DModel(**{**config, "class_embed_type": None})
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_in, self.down, self.mid = unet.conv_in, unet.down_blocks, unet.mid_block
        channels = shape.width * shape.multipliers[-1]
        self.head = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU())
        self.logits = nn.Linear(channels, classes)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Return logits [B, classes] of noisy images [B, 3, H, W] at timestep [B]."""
        time = self.time_embedding(self.time_proj(timestep).to(x.dtype))
        hidden = self.conv_in(x)
        for block in self.down:
            hidden, _ = block(hidden_states=hidden, temb=time)
        hidden = self.head(self.mid(hidden, time))
        logits: Tensor = self.logits(hidden.mean((2, 3)))
        return logits


def classifier_loss(
    classifier: nn.Module,
    schedule: Schedule,
    image: Tensor,
    label: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the cross entropy on images [B, 3, H, W] in 0..1 at drawn noise levels."""
    x0 = image * 2 - 1
    step = torch.randint(len(schedule), (len(x0),), generator=generator, device=x0.device)
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    xt = noised(schedule, x0, step, noise)
    return F.cross_entropy(classifier(xt, schedule.timesteps.to(x0.device)[step]), label)


def classifier_guidance(classifier: nn.Module, scale: float) -> Guidance:
    """Return the function giving ``scale`` times the gradient of log p(label | x)."""

    def gradient(x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            logits = classifier(leaf, timestep)
            chosen = logits.log_softmax(1).gather(1, label[:, None]).sum()
            return torch.autograd.grad(chosen, leaf)[0] * scale

    return gradient
