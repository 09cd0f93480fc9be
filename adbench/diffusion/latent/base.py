"""The contract of a latent diffusion model, whatever it was made from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from adbench.diffusion.latent.preconditioning import factors
from adbench.diffusion.schedule import Schedule, entries
from adbench.errors import UserError, nearest

if TYPE_CHECKING:
    from adbench.runs.stages import Stage


class Damaged(Protocol):
    """Images with made-up defects: [B, 3, H, W] and where they lie, [B, 1, H, W] bool."""

    @property
    def image(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor: ...


class Damage(Protocol):
    """As much of a Synthesizer as training and measuring an autoencoder need."""

    def __call__(
        self, image: Tensor, *, foreground: Tensor | None, generator: torch.Generator
    ) -> Damaged: ...

    def prepare(self, datamodule: Any) -> None: ...

    def foreground_masks(self, index: Tensor, split: str = "train") -> Tensor | None: ...


Features = Callable[[Tensor], Sequence[Tensor]]


class LatentDiffusion(nn.Module, ABC):
    """Autoencoder, noise schedule and a network that estimates noise, conditioned on a category.

    Attributes:
        schedule: tables of the forward process.
        channels: of a latent.
        factor: pixels of a picture that one side of a latent's cell covers.
        size_multiple: sides of pictures are multiples of this.
        classes: categories, in the order of the labels.
        network: what is trained; everything else is frozen once the stages are done.
        guided: whether ``noise`` costs two passes of the network.
    """

    schedule: Schedule
    channels: int
    factor: int
    size_multiple: int
    classes: list[str]
    network: nn.Module
    guided: bool = False

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Plain values from which ``built_diffusion`` makes the same architecture."""

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Return scaled latents [B, C, h, w] of images [B, 3, H, W] in 0..1."""

    @abstractmethod
    def decode(self, latent: Tensor) -> Tensor:
        """Return images [B, 3, H, W], about 0..1 and not clipped, of scaled latents."""

    @abstractmethod
    def output(self, network: nn.Module, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return what ``network`` says of latents at levels ``time`` [B], labels [B], unguided."""

    @abstractmethod
    def noise_of(self, output: Tensor, latent: Tensor, time: Tensor) -> Tensor:
        """Return the estimate of the noise that the network's output means."""

    def noise(self, latent: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """Return the estimate of the noise, guided where the model is."""
        return self.noise_of(self.output(self.network, latent, time, label), latent, time)

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return what the network should say where ``noise`` leads to ``clean``."""
        del clean, time
        return noise

    def labels(self, categories: Sequence[str]) -> Tensor:
        """Return the labels [B] of category names.

        Raises:
            UserError: a category that the model was not trained on.
        """
        for name in categories:
            if name not in self.classes:
                known = ", ".join(self.classes)
                raise UserError(
                    f"the diffusion model knows no category '{name}'"
                    f"{nearest(name, self.classes)} (it was trained on: {known})"
                )
        return torch.tensor([self.classes.index(name) for name in categories])

    def set_classes(self, classes: Sequence[str], generator: torch.Generator) -> None:
        """Give the model its categories; what depends on their number is drawn anew."""
        del generator
        self.classes = list(classes)

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
        """Return what must be trained before the network, on pictures of ``size``.

        A published model needs nothing.

        ``check(datamodule)`` is called before anything is trained.
        """
        del features, synthesis, seed, size, device, check
        return []

    def restore(self, stages: Path) -> None:
        """Take the results of the stages in ``stages``."""


class NoiseNetwork(LatentDiffusion):
    """What models with a network of noise, of v or of a flow's velocity have in common.

    With the straight path x_s = (1 - s) clean + s noise of rectified flow (Liu et al. 2023) the
    velocity is noise - clean; x_s is the schedule's latent over sqrt(a) + sqrt(1 - a), at
    s = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a)). A DDIM step is then Euler's step from s to s'.

    Attributes:
        prediction: what the network says.
        deviation: [1, C, 1, 1] of the latents' channels, for ``edm``.
    """

    prediction: str = "epsilon"
    deviation: Tensor

    def noise_of(self, output: Tensor, latent: Tensor, time: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return output
        signal = entries(self.schedule.alphas_cumprod, time, latent)
        clean_share, noise_share = signal.sqrt(), (1 - signal).sqrt()
        if self.prediction == "edm":
            own = factors(self.schedule, self.deviation, time)
            return (latent - clean_share * (own.skip * latent + own.out * output)) / noise_share
        if self.prediction == "flow":
            return (latent + clean_share * output) / (clean_share + noise_share)
        return clean_share * output + noise_share * latent

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the noise, v = sqrt(a) noise - sqrt(1 - a) clean, noise - clean, or (``edm``) what
        the best linear estimate leaves over, in units of its deviation (``preconditioning``).

        ``noise`` and ``clean`` are those of one noisy latent, so that all are exact for a corrected
        target too (``adbench.methods.glad.atp``).
        """
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - clean
        signal = entries(self.schedule.alphas_cumprod, time, clean)
        if self.prediction == "edm":
            own = factors(self.schedule, self.deviation, time)
            return (
                clean - own.skip * (signal.sqrt() * clean + (1 - signal).sqrt() * noise)
            ) / own.out
        return signal.sqrt() * noise - (1 - signal).sqrt() * clean


def built_diffusion(config: Mapping[str, Any]) -> LatentDiffusion:
    """Return the model that ``LatentDiffusion.config`` describes, its weights untrained."""
    values = dict(config)
    kind = values.pop("kind")
    if kind == "scratch":
        from adbench.diffusion.latent.scratch import ScratchDiffusion

        return ScratchDiffusion(**values)
    from adbench.diffusion.latent.published import PublishedDiffusion

    return PublishedDiffusion(**values)
