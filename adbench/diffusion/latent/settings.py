"""The keys of conf/diffusion as frozen records; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from adbench.config.typed import Count, NonNegative, Number, Rate, Share, Side, Within
from adbench.errors import UserError

GROUPS = 8  # of group normalisation: every width is a multiple
_MOST = 400_000_000  # weights of a network from scratch; four copies of it are held in training
Channels = Annotated[int, Within(8, 1024)]


@dataclass(frozen=True, slots=True)
class AutoencoderKeys:
    """The autoencoder of ``diffusion=scratch`` and its training.

    Attributes:
        kind: ``small`` (convolutional, trained), ``pca`` (of 8 x 8 patches, linear, fitted in
            seconds), ``lapped`` (the same of 16 x 16 patches that overlap: no block edges) or
            ``unshuffle`` (lossless, 192 channels: a control).
        channels: of the latent; ``unshuffle`` has 192 whatever is said.
        widths: channels at a quarter and at an eighth of the picture's side.
        blocks: residual blocks a level.
        steps, batch_size, learning_rate: of Adam, the rate falling as a cosine.
        crop: side in pixels of the training crops, a multiple of 8; None trains on whole images.
        damaged: share of the training images that carry synthetic defects.
        gradient: weight of the error of image gradients beside that of pixels.
        perceptual: weight of the error of the comparison features.
        kl: weight of the divergence of the posterior from a unit normal distribution.
    """

    kind: Literal["small", "pca", "lapped", "unshuffle"] = "small"
    channels: Annotated[int, Within(1, 192)] = 8
    widths: tuple[Channels, Channels] = (32, 64)
    blocks: Annotated[int, Within(1, 16)] = 2
    steps: Number = 2500
    batch_size: Annotated[int, Within(1, 512)] = 16
    learning_rate: Rate = 1e-3
    crop: Side | None = 128
    damaged: Share = 0.5
    gradient: NonNegative = 0.5
    perceptual: NonNegative = 0.0
    kl: NonNegative = 1e-6

    def __post_init__(self) -> None:
        if any(width % GROUPS for width in self.widths):
            raise UserError(
                f"diffusion.autoencoder.widths={list(self.widths)}: multiples of {GROUPS}"
            )
        if self.crop is not None and self.crop % 8:
            raise UserError(f"diffusion.autoencoder.crop={self.crop}: a multiple of 8 is expected")


@dataclass(frozen=True, slots=True)
class NetworkKeys:
    """The U-Net of ``diffusion=scratch``.

    Attributes:
        widths: channels of each level; every level but the last halves the sides.
        blocks: residual blocks a level.
        attention: levels with self-attention, counted from 0, the finest.
        head: channels of an attention head.
    """

    widths: tuple[Channels, ...] = (64, 96, 128)
    blocks: Annotated[int, Within(1, 6)] = 1
    attention: tuple[Annotated[int, Within(0, 7)], ...] = (2,)
    head: Annotated[int, Within(1, 256)] = 32

    def __post_init__(self) -> None:
        if not 1 <= len(self.widths) <= 6:
            raise UserError("diffusion.network.widths: one to six levels are possible")
        if any(width % GROUPS for width in self.widths):
            raise UserError(f"diffusion.network.widths={list(self.widths)}: multiples of {GROUPS}")
        if self.weights > _MOST:
            raise UserError(
                f"diffusion.network: widths {list(self.widths)} with {self.blocks} blocks make "
                f"about {self.weights / 1e6:.0f} million weights, {_MOST / 1e6:.0f} are allowed"
            )
        for level in self.attention:
            if level >= len(self.widths):
                raise UserError(
                    f"diffusion.network.attention={list(self.attention)}: there are "
                    f"{len(self.widths)} levels, counted from 0"
                )
            if self.widths[level] % self.head:
                raise UserError(
                    f"diffusion.network.head={self.head} does not divide the "
                    f"{self.widths[level]} channels of level {level}"
                )

        if self.widths[-1] % self.head:
            raise UserError(
                f"diffusion.network.head={self.head} does not divide the {self.widths[-1]} "
                "channels of the middle block"
            )

    @property
    def weights(self) -> int:
        """About how many weights: two 3 x 3 convolutions a block, wider ones on the way up."""
        return sum(18 * width * width * (3 * self.blocks + 2) for width in self.widths)

    @property
    def multiple(self) -> int:
        """Latent sides are multiples of this."""
        return int(2 ** (len(self.widths) - 1))


@dataclass(frozen=True, slots=True)
class ScratchDiffusionKeys:
    """Group ``diffusion``, ``scratch``.

    Attributes:
        prediction: what the network estimates: the noise, ``v`` (Salimans and Ho 2022), or the
            velocity noise - clean of a rectified ``flow``; ``edm``: preconditioned by channel.
            None: the noise, where the method has no form of its own.
        save_every: steps between checkpoints of the autoencoder's training.
    """

    autoencoder: AutoencoderKeys = field(default_factory=AutoencoderKeys)
    network: NetworkKeys = field(default_factory=NetworkKeys)
    prediction: Literal["epsilon", "v", "flow", "edm"] | None = None
    save_every: Count = 250


@dataclass(frozen=True, slots=True)
class StableDiffusionKeys:
    """Group ``diffusion``, ``sd15``: a model in the published folder layout.

    Attributes:
        path: folder that holds ``unet/``, ``vae/``, ``scheduler/``, and for prompts ``tokenizer/``
            and ``text_encoder/``; None asks the hub's cache and then the hub for ``hub``.
        hub: repository on the hub.
        revision: of that repository.
        vae: folder of another autoencoder (a fine-tuned one, or AutoencoderTiny); None: ``vae/``.
        prompt: text; ``{category}`` stands for the category's name.
        negative: text of the unguided branch.
        embeddings: safetensors file with ``prompt`` and ``negative`` [tokens, width] (or
            ``prompt.CATEGORY``), where no text encoder is at hand.
        guidance: weight w of e0 + w (e1 - e0); 1 leaves the unguided branch out.
        precision: of the frozen autoencoder.
    """

    path: str | None = None
    hub: str = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    revision: str | None = None
    vae: str | None = None
    prompt: str = "a photo of sks"
    negative: str = ""
    embeddings: str | None = None
    guidance: Annotated[float, Within(0, 100)] = 9.0
    precision: Literal["float32", "bfloat16"] = "float32"
