"""Noise that an image brings along, so that nothing depends on its batch."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from adbench.methods.base import seeded_generator

_NOISE = 0x61AD


def content_key(image: Tensor) -> int:
    """Return 63 bits that depend on an image [3, H, W] in 0..1 alone, read at 8 bits."""
    pixels = (image.detach() * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
    digest = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def drawn_noise(image: Tensor, shape: tuple[int, ...], seed: int, kind: str) -> Tensor:
    """Return noise [B, *shape] for images [B, 3, H, W].

    ``image`` draws each from (seed, content), ``shared`` takes one draw for all. The draw is made
    on the CPU: a GPU gives the same.
    """
    if kind == "shared":
        one = torch.randn(shape, generator=seeded_generator("cpu", seed, _NOISE))
        return one.to(image.device).expand(len(image), *shape)
    rows = [
        torch.randn(shape, generator=seeded_generator("cpu", seed, _NOISE, content_key(each)))
        for each in image
    ]
    return torch.stack(rows).to(image.device)
