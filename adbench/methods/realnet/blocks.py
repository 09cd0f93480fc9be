"""Which layers each reconstruction network reads (Fig. S2: architectures A, B, C)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adbench.errors import UserError

# Kept channels of the paper (Table S3), by the channels of the backbone's layers.
PAPER_DIMS: dict[tuple[int, ...], tuple[int, ...]] = {
    (256, 512, 1024, 2048): (256, 512, 512, 256),
    (64, 128, 256, 512): (64, 128, 256, 128),
    (24, 32, 56, 160): (24, 32, 56, 160),
}


@dataclass(frozen=True, slots=True)
class Block:
    """What one reconstruction network reads.

    Attributes:
        layers: positions in the extractor's list of maps.
        dims: channels kept of each of them.
        stride: of the block's maps; coarser layers are upsampled to it after the gather.
    """

    layers: tuple[int, ...]
    dims: tuple[int, ...]
    stride: int

    @property
    def channels(self) -> int:
        return sum(self.dims)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for the detector's config."""
        return {"layers": list(self.layers), "dims": list(self.dims), "stride": self.stride}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Block:
        return cls(tuple(values["layers"]), tuple(values["dims"]), int(values["stride"]))


def kept_dims(channels: Sequence[int], dims: Sequence[int] | None) -> tuple[int, ...]:
    """Return the channels kept per layer; the paper's where ``dims`` is None.

    Backbones that the paper does not use keep every channel but half of the last layer's.

    Raises:
        UserError: not one number per layer, or more than a layer has.
    """
    known = tuple(channels)
    if dims is None:
        return PAPER_DIMS.get(known, (*known[:-1], max(1, known[-1] // 2)))
    if len(dims) != len(known):
        raise UserError(
            f"model.afs.dims={list(dims)}: {len(known)} layers are read, one number each is needed"
        )
    for kept, all_of in zip(dims, known, strict=True):
        if not 1 <= kept <= all_of:
            raise UserError(
                f"model.afs.dims={list(dims)}: the layers have {list(known)} channels; "
                "keep at most so many"
            )
    return tuple(dims)


def blocks_of(arch: str, strides: Sequence[int], dims: Sequence[int]) -> tuple[Block, ...]:
    """Return the blocks of architecture A (each layer alone), B (all in one) or C (in pairs).

    Raises:
        UserError: the layers' strides do not rise.
    """
    if sorted(strides) != list(strides):
        raise UserError(f"model.layers have strides {list(strides)}: finest first is expected")
    count = len(dims)
    size = {"A": 1, "B": count, "C": 2}[arch]
    found = []
    for start in range(0, count, size):
        layers = tuple(range(start, min(start + size, count)))
        found.append(Block(layers, tuple(dims[i] for i in layers), strides[start]))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer as one block reads it: ``kept`` of its channels, at the size of ``first``'s map."""

    block: int
    place: int
    layer: int
    first: int
    kept: int


def candidates(
    blocks: Sequence[Block], channels: Sequence[int], *, every: bool = False
) -> list[Candidate]:
    """Return where something is left out: only there is a choice to make; all with ``every``."""
    return [
        Candidate(number, place, layer, block.layers[0], kept)
        for number, block in enumerate(blocks)
        for place, (layer, kept) in enumerate(zip(block.layers, block.dims, strict=True))
        if every or kept < channels[layer]
    ]


def candidate_maps(maps: Sequence[Tensor], chosen_from: Sequence[Candidate]) -> list[Tensor]:
    """Return each candidate's whole map [B, C, h, w] at the size its block works at."""
    return [upsampled(maps[c.layer], maps[c.first].shape[-2:]) for c in chosen_from]


def upsampled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps at ``size``, bilinear with aligned corners; the same object where they fit."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=True)


class BlockFeatures(nn.Module):
    """Gathers the chosen channels of each block (phi_k of the paper).

    ``index_K_J`` holds the ascending channels of the J-th layer of block K; with ``project`` an
    untrained linear map ``weight_K_J`` takes the place of the gather (RLPR of Table 5a).
    """

    def __init__(
        self, blocks: Sequence[Block], channels: Sequence[int], project: bool = False
    ) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.project = project
        for number, block in enumerate(self.blocks):
            for place, (layer, kept) in enumerate(zip(block.layers, block.dims, strict=True)):
                self.register_buffer(f"index_{number}_{place}", torch.arange(kept))
                if project:
                    start = torch.zeros(kept, channels[layer])
                    self.register_buffer(f"weight_{number}_{place}", start)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return one [B, c_k, h_k, w_k] per block from the extractor's maps."""
        return [self._block(number, block, maps) for number, block in enumerate(self.blocks)]

    def _block(self, number: int, block: Block, maps: Sequence[Tensor]) -> Tensor:
        size = maps[block.layers[0]].shape[-2:]
        parts = []
        for place, layer in enumerate(block.layers):
            parts.append(upsampled(self._kept(maps[layer], number, place), size))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _kept(self, maps: Tensor, number: int, place: int) -> Tensor:
        if self.project:
            weight: Tensor = getattr(self, f"weight_{number}_{place}")
            return F.conv2d(maps, weight[:, :, None, None].to(maps.dtype))
        index: Tensor = getattr(self, f"index_{number}_{place}")
        return maps if len(index) == maps.shape[1] else maps.index_select(1, index)

    @torch.no_grad()
    def choose(self, number: int, place: int, index: Tensor) -> None:
        """Set the kept channels of one layer of a block."""
        getattr(self, f"index_{number}_{place}").copy_(index)

    @torch.no_grad()
    def draw_projections(self, generator: torch.Generator) -> None:
        """Draw the linear maps of RLPR, variance 1 / inputs, from a CPU ``generator``."""
        for name, buffer in self.named_buffers():
            if name.startswith("weight_"):
                drawn = torch.randn(buffer.shape, generator=generator) / buffer.shape[1] ** 0.5
                buffer.copy_(drawn)
