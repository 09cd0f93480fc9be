"""Conditioning on a defect's cluster and mask: what every way into a network has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.latent.tokens import MaskEncoder, TokenBank


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

    def measure(self, latents: Tensor, masks: Tensor) -> None:
        """Take what the parametrisation needs from latents and masks [N, 1, H, W] to be learned."""

    def target(self, clean: Tensor, noise: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        """Return what ``output`` should say where ``noise`` leads to ``clean``."""
        del mask
        return self.model.target(clean, noise, time)

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
