"""Where foreign pixels come from: a folder of textures, formulas, or the training images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from adbench.data.images import images_in, read_image
from adbench.errors import UserError
from adbench.synthesis.augmentations import grey
from adbench.synthesis.perlin import uniform
from adbench.synthesis.settings import TexturesKeys, where_textures_are

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


class TextureSource(ABC):
    """Draws foreign pictures."""

    @property
    @abstractmethod
    def record(self) -> str:
        """What was drawn from, in words, for run.json."""

    def prepare(self, datamodule: DataModule) -> None:
        """Look at the training images, where the source needs them."""

    @abstractmethod
    def draw(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        """Return [count, 3, H, W] float32 in 0..1 on the generator's device."""


class ProceduralTextures(TextureSource):
    """A bank of generated textures; nothing is read.

    Textures are made in blocks when first drawn, each from its own seed, so that the bank's
    content depends on ``seed`` and size alone. A full bank takes count H W 3 bytes.

    Args:
        count: textures in the bank.
        seed: of the bank.
        max_memory: bytes of textures kept; blocks beyond are made again at each draw.
    """

    block = 16

    def __init__(self, count: int = 512, seed: int = 0, max_memory: int = 1 << 30) -> None:
        self.count, self.seed, self.max_memory = count, seed, max_memory
        self._blocks: dict[tuple[int, tuple[int, int], torch.device], Tensor] = {}

    @property
    def record(self) -> str:
        return "procedural"

    def draw(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        drawn = torch.randint(self.count, (count,), generator=generator, device=generator.device)
        picked = [
            self._block(n // self.block, size, generator.device)[n % self.block]
            for n in drawn.tolist()
        ]
        return torch.stack(picked).to(torch.float32).div_(255)

    def _block(self, number: int, size: tuple[int, int], device: torch.device) -> Tensor:
        key = (number, size, device)
        if key in self._blocks:
            return self._blocks[key]
        own = Generator(device).manual_seed(1_000_003 * self.seed + number)
        made = generated_textures(self.block, size, own).mul_(255).round_().to(torch.uint8)
        if (len(self._blocks) + 1) * made.nbytes <= self.max_memory:
            self._blocks[key] = made
        return made


def generated_textures(count: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Return [count, 3, H, W] in 0..1: 1/f noise, smooth or hard-edged, and gratings, coloured."""
    noise = _coloured_noise(count, size, generator)
    gratings = _gratings(count, size, generator)
    kind = uniform(generator, count, 1, 1, 1)
    hard = torch.tanh(noise * (1 + 12 * uniform(generator, count, 1, 1, 1)))
    pattern = torch.where(kind < 0.4, noise / 2, torch.where(kind < 0.7, hard, gratings))
    mix = torch.eye(3, device=noise.device) + 0.8 * (2 * uniform(generator, count, 3, 3) - 1)
    mixed = torch.einsum("nij,njhw->nihw", mix, pattern)
    base = uniform(generator, count, 3, 1, 1)
    strength = 0.1 + 0.4 * uniform(generator, count, 1, 1, 1)
    return (base + strength * mixed).clamp_(0, 1)


def _coloured_noise(count: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Return unit-variance noise [count, 3, H, W] whose amplitude falls as 1/f^e, 0.6 <= e <= 2."""
    height, width = size
    device = generator.device
    fy = torch.fft.fftfreq(height, device=device)[:, None]
    fx = torch.fft.rfftfreq(width, device=device)[None]
    stretch = torch.exp(2 * uniform(generator, count, 1, 1) - 1)
    radius = torch.sqrt((fy * stretch) ** 2 + (fx / stretch) ** 2).clamp_min(1 / max(size))
    exponent = 0.6 + 1.4 * uniform(generator, count, 1, 1)
    amplitude = radius**-exponent
    amplitude[:, 0, 0] = 0
    phase = 2 * math.pi * uniform(generator, count, 3, height, width // 2 + 1)
    spectrum = torch.polar(amplitude[:, None].expand_as(phase).contiguous(), phase)
    noise = torch.fft.irfft2(spectrum, s=size)
    return noise / noise.std((2, 3), keepdim=True).clamp_min(1e-8)


def _gratings(count: int, size: tuple[int, int], generator: Generator) -> Tensor:
    """Return products and sums of two plane waves, [count, 3, H, W] in -1..1."""
    height, width = size
    y = torch.arange(height, device=generator.device, dtype=torch.float32).view(1, height, 1)
    x = torch.arange(width, device=generator.device, dtype=torch.float32).view(1, 1, width)
    waves = []
    for _ in range(2):
        turn = math.pi * uniform(generator, count, 1, 1)
        period = 4 * 10 ** uniform(generator, count, 1, 1)
        along = x * turn.cos() + y * turn.sin()
        waves.append(torch.sin(2 * math.pi * along / period))
    summed = uniform(generator, count, 1, 1) < 0.5
    wave = torch.where(summed, (waves[0] + waves[1]) / 2, waves[0] * waves[1])
    return wave[:, None].expand(-1, 3, -1, -1)


class FolderTextures(TextureSource):
    """Images of a folder and its subfolders (DTD's root, its ``images``, or any other).

    Each is brought to the wanted size: shorter side to fit, centre crop. The papers crop after
    augmenting, which differs at the corners of rotated oblong textures only.

    Args:
        root: the folder.
        max_memory: bytes of cropped images kept; others are decoded at each draw.
    """

    def __init__(self, root: str | Path, max_memory: int = 1 << 30) -> None:
        base = Path(root).expanduser()
        if not base.is_dir():
            raise UserError(f"synthesis.textures.root={root} is no folder; {where_textures_are()}")
        self.root = base
        self.paths = images_below(base / "images" if (base / "images").is_dir() else base)
        if not self.paths:
            raise UserError(f"synthesis.textures.root={root} holds no image")
        self._pictures = PictureCache(cropped_image, max_memory)

    @property
    def record(self) -> str:
        return f"folder {self.root} ({len(self.paths)} images)"

    def draw(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        drawn = torch.randint(
            len(self.paths), (count,), generator=generator, device=generator.device
        )
        chosen = [self.paths[number] for number in drawn.tolist()]
        return self._pictures.stacked(chosen, size, generator.device)


class PictureCache:
    """Pictures of files at a size, kept decoded as long as they fit.

    Args:
        read: from (file, (height, width)) to uint8 [H, W, 3] RGB.
        max_memory: bytes kept; others are decoded at each draw.
    """

    def __init__(
        self, read: Callable[[Path, tuple[int, int]], NDArray[np.uint8]], max_memory: int
    ) -> None:
        self.read, self.max_memory = read, max_memory
        self._kept: dict[tuple[Path, int, int], NDArray[np.uint8]] = {}

    def stacked(self, paths: Sequence[Path], size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the pictures of ``paths`` as [B, 3, H, W] float32 in 0..1 on ``device``."""
        pixels = np.stack([self._sized(path, size) for path in paths])
        image = torch.from_numpy(pixels).to(device)
        return image.permute(0, 3, 1, 2).to(torch.float32).div_(255).contiguous()

    def _sized(self, path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
        key = (path, *size)
        if key in self._kept:
            return self._kept[key]
        image = self.read(path, size)
        if (len(self._kept) + 1) * image.nbytes <= self.max_memory:
            self._kept[key] = image
        return image


def images_below(folder: Path) -> list[Path]:
    """Return the images of a folder and of all folders below it, folder by folder, by name.

    Raises:
        UserError: one is a pipe, a device or a broken link, which would be waited for for ever.
    """
    folders = [folder, *sorted(p for p in folder.rglob("*") if p.is_dir())]
    found = [path for each in folders for path in images_in(each)]
    for path in found:
        if not path.is_file():
            raise UserError(f"{path} is no regular file; remove it from {folder}")
    return found


def cropped_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image file as uint8 [H, W, 3] RGB: scaled to cover ``size``, cropped centrally."""
    image = read_image(path)
    scale = max(size[0] / image.shape[0], size[1] / image.shape[1])
    if scale != 1:
        shape = [
            max(round(n * scale), wanted) for n, wanted in zip(image.shape, size, strict=False)
        ]
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, (shape[1], shape[0]), interpolation=method), np.uint8)
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return np.ascontiguousarray(image[top : top + size[0], left : left + size[1]])


class TrainingTextures(TextureSource):
    """Other training images of the run."""

    def __init__(self) -> None:
        self._datamodule: DataModule | None = None

    @property
    def record(self) -> str:
        return "training"

    def prepare(self, datamodule: DataModule) -> None:
        self._datamodule = datamodule

    def draw(self, count: int, size: tuple[int, int], generator: Generator) -> Tensor:
        if self._datamodule is None:
            raise UserError("synthesis.textures.source=training needs training images")
        total = len(self._datamodule.train_samples)
        drawn = torch.randint(total, (count,), generator=generator, device=generator.device)
        image = self._datamodule.train_images(drawn.cpu()).to(generator.device)
        if (image.shape[-2], image.shape[-1]) != size:
            image = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
        return image


class Textures:
    """A source as synthesizers use it: augmented, and in grey where that is asked for.

    Args:
        source: where textures come from.
        colour: ``keep`` (as published) or ``auto`` (grey where all training images are grey).
    """

    def __init__(self, source: TextureSource, colour: str = "keep") -> None:
        self.source, self.colour = source, colour
        self.grey = False

    @property
    def record(self) -> str:
        """What was drawn from, in words."""
        return self.source.record

    def prepare(self, datamodule: DataModule) -> None:
        """Look at the training images."""
        self.source.prepare(datamodule)
        self.grey = self.colour == "auto" and all(
            is_grey(batch.image) for batch in datamodule.train_batches()
        )

    def draw(
        self,
        count: int,
        size: tuple[int, int],
        generator: Generator,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Return [count, 3, H, W] float32 in 0..1 on the generator's device."""
        drawn = self.source.draw(count, size, generator)
        if augment is not None:
            drawn = augment(drawn)
        return grey(drawn).expand_as(drawn) if self.grey else drawn


def is_grey(image: Tensor) -> bool:
    """Say whether the channels of images [B, 3, H, W] are equal at every pixel."""
    return bool((image == image[:, :1]).all())


def texture_source(keys: TexturesKeys) -> Textures:
    """Return the source that the section ``synthesis.textures`` names.

    Raises:
        UserError: a folder that is missing or empty.
    """
    return Textures(_source(keys), keys.colour)


def _source(keys: TexturesKeys) -> TextureSource:
    if keys.source == "folder":
        return FolderTextures(str(keys.root), keys.max_memory)
    if keys.source == "training":
        return TrainingTextures()
    return ProceduralTextures(keys.count, max_memory=keys.max_memory)
