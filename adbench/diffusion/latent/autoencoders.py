"""Autoencoders that shrink a picture eightfold: convolutional, principal components, a control."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.diffusion.latent.lapped import lapped, unlapped
from adbench.diffusion.latent.settings import GROUPS, AutoencoderKeys

FACTOR = 8
_PATCH = 3 * FACTOR * FACTOR
_LOGVAR = (-30.0, 20.0)


class Posterior(NamedTuple):
    """Mean and log variance [B, C, h, w] of a latent, not scaled."""

    mean: Tensor
    logvar: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Return a draw."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def divergence(self) -> Tensor:
        """Return the mean over elements of KL(posterior || unit normal), in nats."""
        parts: Tensor = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * parts.mean()


class Autoencoder(nn.Module):
    """Images [B, 3, H, W] in -1..1 to latents [B, C, H/8, W/8] and back.

    Attributes:
        channels: C.
        trained: whether a training loop fits it.
    """

    channels: int
    trained: bool = False

    def posterior(self, image: Tensor) -> Posterior:
        raise NotImplementedError

    def encode(self, image: Tensor) -> Tensor:
        """Return the posterior's mean."""
        return self.posterior(image).mean

    def decode(self, latent: Tensor) -> Tensor:
        raise NotImplementedError


class _Residual(nn.Module):
    """Norm, SiLU, 3 x 3 convolution, twice; the last starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = x + self.conv2(F.silu(self.norm2(inner)))
        return out


def _level(width: int, blocks: int) -> list[nn.Module]:
    return [_Residual(width) for _ in range(blocks)]


class SmallAutoencoder(Autoencoder):
    """Half a million weights: pixels folded by 4, two levels of residual blocks."""

    trained = True

    def __init__(self, keys: AutoencoderKeys) -> None:
        super().__init__()
        fine, coarse = keys.widths
        self.channels = keys.channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *_level(fine, keys.blocks),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            *_level(coarse, keys.blocks),
            nn.GroupNorm(GROUPS, coarse),
            nn.SiLU(),
            nn.Conv2d(coarse, 2 * keys.channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(keys.channels, coarse, 3, padding=1),
            *_level(coarse, keys.blocks),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(coarse, fine, 3, padding=1),
            *_level(fine, keys.blocks),
            nn.GroupNorm(GROUPS, fine),
            nn.SiLU(),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )

    def posterior(self, image: Tensor) -> Posterior:
        mean, logvar = self.encoder(image).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*_LOGVAR))

    def decode(self, latent: Tensor) -> Tensor:
        image: Tensor = self.decoder(latent)
        return image


class Unshuffle(Autoencoder):
    """The 192 pixels of an 8 x 8 patch as channels: nothing is lost."""

    channels = _PATCH

    def posterior(self, image: Tensor) -> Posterior:
        mean = F.pixel_unshuffle(image, FACTOR)
        return Posterior(mean, torch.full_like(mean, _LOGVAR[0]))

    def decode(self, latent: Tensor) -> Tensor:
        return F.pixel_shuffle(latent, FACTOR)


class PatchPca(Autoencoder):
    """The first principal components of 8 x 8 patches, by ``fit``; the best linear code."""

    mean: Tensor
    basis: Tensor

    def __init__(self, keys: AutoencoderKeys) -> None:
        super().__init__()
        self.channels = keys.channels
        self.register_buffer("mean", torch.zeros(_PATCH))
        self.register_buffer("basis", torch.eye(keys.channels, _PATCH))

    def folded(self, image: Tensor) -> Tensor:
        """Return the patches [B, 192, H/8, W/8] of images [B, 3, H, W]."""
        return F.pixel_unshuffle(image, FACTOR)

    def unfolded(self, patches: Tensor) -> Tensor:
        """Return the images that ``folded`` makes ``patches`` of."""
        return F.pixel_shuffle(patches, FACTOR)

    def fit(self, patches: Tensor) -> Tensor:
        """Take mean and leading components of ``patches`` [N, 192]; return all variances [192]."""
        rows = patches.double()
        mean = rows.mean(0)
        centred = rows - mean
        variances, vectors = torch.linalg.eigh(centred.mT @ centred / len(rows))
        self.mean.copy_(mean)
        self.basis.copy_(vectors.flip(1)[:, : self.channels].mT)
        return variances.flip(0)

    def posterior(self, image: Tensor) -> Posterior:
        patches = self.folded(image) - self.mean[:, None, None]
        mean = torch.einsum("cp,bphw->bchw", self.basis, patches)
        return Posterior(mean, torch.full_like(mean, _LOGVAR[0]))

    def decode(self, latent: Tensor) -> Tensor:
        patches = torch.einsum("cp,bchw->bphw", self.basis, latent)
        return self.unfolded(patches + self.mean[:, None, None])


class LappedPca(PatchPca):
    """The same of lapped coefficients: a cell's error fades into its neighbours, no block ends."""

    def folded(self, image: Tensor) -> Tensor:
        return lapped(image)

    def unfolded(self, patches: Tensor) -> Tensor:
        return unlapped(patches)


_KINDS = {"small": SmallAutoencoder, "pca": PatchPca, "lapped": LappedPca}


def autoencoder_of(keys: AutoencoderKeys) -> Autoencoder:
    """Return the untrained autoencoder that ``keys`` describe."""
    if keys.kind == "unshuffle":
        return Unshuffle()
    return _KINDS[keys.kind](keys)
