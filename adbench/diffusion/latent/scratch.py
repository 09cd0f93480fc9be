"""``diffusion=scratch``: a small autoencoder and U-Net, both trained on the user's own images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from adbench.config.typed import from_mapping
from adbench.diffusion.latent.autoencoders import FACTOR, autoencoder_of
from adbench.diffusion.latent.base import Damage, Features, NoiseNetwork
from adbench.diffusion.latent.ddim import scaled_linear_schedule
from adbench.diffusion.latent.preconditioning import factors
from adbench.diffusion.latent.settings import GROUPS, NetworkKeys, ScratchDiffusionKeys
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.runs.stages import Stage

AUTOENCODER = "autoencoder"


def small_unet(keys: NetworkKeys, channels: int, classes: int) -> nn.Module:
    """Return diffusers' unconditional U-Net, with a label embedding for several categories.

    Its last convolution starts at zero.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    down = [
        "AttnDownBlock2D" if level in keys.attention else "DownBlock2D"
        for level in range(len(keys.widths))
    ]
    network = UNet2DModel(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(keys.widths),
        down_block_types=tuple(down),
        up_block_types=tuple(name.replace("Down", "Up") for name in reversed(down)),
        layers_per_block=keys.blocks,
        attention_head_dim=keys.head,
        norm_num_groups=GROUPS,
        num_class_embeds=classes if classes > 1 else None,
    )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    return network


class ScratchDiffusion(NoiseNetwork):
    """Autoencoder and U-Net without published weights.

    Args:
        autoencoder, network, prediction, save_every: keys of conf/diffusion/scratch.yaml.
        classes: category names.

    Latents are brought to mean 0 per channel and to deviation 1 by one factor for all channels, as
    measured on the training images. ``deviation`` is what each channel then has.
    """

    factor = FACTOR
    shift: Tensor
    scale: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        autoencoder: Mapping[str, Any] | None = None,
        network: Mapping[str, Any] | None = None,
        prediction: str | None = None,
        save_every: int = 250,
        classes: Sequence[str] = ("normal",),
    ) -> None:
        super().__init__()
        values = {
            "autoencoder": dict(autoencoder or {}),
            "network": dict(network or {}),
            "prediction": prediction,
            "save_every": save_every,
        }
        self.keys = from_mapping(ScratchDiffusionKeys, values, "diffusion")
        self.prediction = self.keys.prediction or "epsilon"
        self.schedule = scaled_linear_schedule()
        self.autoencoder = autoencoder_of(self.keys.autoencoder)
        self.channels = self.autoencoder.channels
        self.classes = list(classes)
        self.size_multiple = FACTOR * self.keys.network.multiple
        self.network = small_unet(self.keys.network, self.channels, len(self.classes))
        self.register_buffer("shift", torch.zeros(1, self.channels, 1, 1))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("deviation", torch.ones(1, self.channels, 1, 1))
        self.autoencoder.requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        return {"kind": "scratch", **_plain(asdict(self.keys)), "classes": list(self.classes)}

    def encode(self, image: Tensor) -> Tensor:
        latent = self.autoencoder.encode(image * 2 - 1)
        return (latent - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        return (self.autoencoder.decode(latent / self.scale + self.shift) + 1) / 2

    def output(self, network: nn.Module, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        told = label.to(latent.device) if len(self.classes) > 1 else None
        if self.prediction == "edm":
            latent = factors(self.schedule, self.deviation, time).into * latent
        found: Tensor = network(latent, time.to(latent.device), class_labels=told).sample
        return found.float()

    def set_classes(self, classes: Sequence[str], generator: torch.Generator) -> None:
        """Draw the network anew for the number of ``classes``, from ``generator``."""
        self.classes = list(classes)
        device = self.shift.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            self.network = small_unet(self.keys.network, self.channels, len(classes)).to(device)

    def stages(
        self,
        *,
        features: Features | None,
        synthesis: Damage | None,
        seed: int,
        size: tuple[int, int],
        device: torch.device,
        check: Callable[[Any], None],
    ) -> list[Stage]:
        from adbench.diffusion.latent.autoencoder_stage import autoencoder_stage

        stage = autoencoder_stage(
            self, features, synthesis, seed=seed, size=size, device=device, check=check
        )
        return [stage]

    def restore(self, stages: Path) -> None:
        """Take autoencoder and scale of the finished stage.

        Raises:
            UserError: the file is missing, or belongs to an autoencoder of another shape.
        """
        file = stages / AUTOENCODER / "autoencoder.safetensors"
        if not file.is_file():
            raise UserError(f"{file} is missing: run the stage {AUTOENCODER} first")
        state = load_file(file)
        own = {name: value for name, value in self.state_dict().items() if name in state}
        wanted = [name for name in self.state_dict() if not name.startswith("network.")]
        if set(own) != set(wanted) or any(own[n].shape != state[n].shape for n in own):
            raise UserError(f"{file} belongs to another autoencoder: force={AUTOENCODER}")
        self.load_state_dict(state, strict=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
