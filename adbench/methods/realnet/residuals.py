"""Reconstruction residual selection (RRS, Sec. 3.3): the channels that stand out in one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adbench.backbones.maps import resize_matrix_like
from adbench.methods import ranks
from adbench.methods.realnet.blocks import upsampled

EPS = 1e-5


def interpolation(size: int, target: int, like: Tensor) -> Tensor:
    """Return W [target, size]: W @ x is the linear aligned-corners upsampling of x [size]."""
    return resize_matrix_like(size, target, like, aligned=True)


def enlarged(rows: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps [n, h, w] at ``size`` [n, H, W], as two matrix products (deterministic)."""
    tall, wide = rows.shape[-2:]
    if (tall, wide) == tuple(size):
        return rows
    return interpolation(tall, size[0], rows) @ (rows @ interpolation(wide, size[1], rows).T)


def upsampled_moments(maps: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return mean and mean square [B, C] float64 of ``maps`` upsampled to ``size``.

    Both are closed forms at low resolution: the mean is w_h' E w_w with the column means of the
    interpolation matrices, the sum of squares the inner product of E with G_h E G_w, G = W' W.
    """
    if maps.shape[-2:] == torch.Size(size):
        area = float(size[0] * size[1])
        square = torch.linalg.vector_norm(maps, dim=(2, 3), dtype=torch.float64).square() / area
        return maps.mean((2, 3), dtype=torch.float64), square
    tall = interpolation(maps.shape[2], size[0], maps)
    wide = interpolation(maps.shape[3], size[1], maps)
    mean = torch.einsum("bchw,h,w->bc", maps, tall.mean(0), wide.mean(0))
    blurred = (tall.T @ tall / size[0]) @ maps @ (wide.T @ wide / size[1])
    square = torch.linalg.vecdot(maps.flatten(2), blurred.flatten(2))
    return mean.double(), square.double()


def upsampled_peak(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Return the maximum [B, C] of ``maps`` upsampled to ``size``, a chunk of maps at a time.

    The maximum of the small map will not do: it may lie between the grid points of the large.
    """
    if maps.shape[-2:] == torch.Size(size):
        return maps.amax((2, 3))
    rows = maps.flatten(0, 1)
    if torch.compiler.is_compiling():  # an export keeps its batch open: no loop over it
        return enlarged(rows, size).amax((1, 2)).view(maps.shape[:2])
    budget = 1 << (24 if maps.is_cuda else 19)  # values at a time: what stays in the CPU's cache
    step = max(1, budget // (size[0] * size[1]))
    peaks = [enlarged(chunk, size).amax((1, 2)) for chunk in rows.split(step)]
    return torch.cat(peaks).view(maps.shape[:2])


class _ChosenMaps(torch.autograd.Function):
    """Picks channels of several blocks, then upsamples the picked ones alone.

    Upsampling commutes with the pick; the residuals of all channels at full size never exist.
    """

    @staticmethod
    def forward(ctx: Any, index: Tensor, size: tuple[int, int], *blocks: Tensor) -> Tensor:
        batch, kept = index.shape
        out = blocks[0].new_empty(batch * kept, *size)
        ctx.shapes = [block.shape for block in blocks]
        ctx.save_for_backward(index)
        for block, (position, image, channel) in zip(
            blocks, _places(index, [b.shape[1] for b in blocks]), strict=True
        ):
            out[position] = enlarged(block[image, channel], size)
        return out.view(batch, kept, *size)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (index,) = ctx.saved_tensors
        size = grad.shape[-2:]
        rows = grad.flatten(0, 1)
        grads: list[Tensor | None] = []
        places = _places(index, [shape[1] for shape in ctx.shapes])
        for shape, (position, image, channel) in zip(ctx.shapes, places, strict=True):
            small = rows[position]
            if shape[-2:] != size:
                tall = interpolation(shape[2], size[0], grad)
                wide = interpolation(shape[3], size[1], grad)
                small = tall.T @ (small @ wide)
            # A channel kept both by maximum and by mean receives both gradients.
            full = grad.new_zeros(shape)
            grads.append(full.index_put_((image, channel), small, accumulate=True))
        return None, None, *grads


def _places(index: Tensor, channels: Sequence[int]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return per block (position in the flat choice, image, channel of the block)."""
    kept = index.shape[1]
    flat = index.flatten()
    found, start = [], 0
    for count in channels:
        position = ((flat >= start) & (flat < start + count)).nonzero().squeeze(1)
        found.append((position, position // kept, flat[position] - start))
        start += count
    return found


def chosen_maps(blocks: Sequence[Tensor], index: Tensor, size: tuple[int, int]) -> Tensor:
    """Return residuals [B, r, H, W]: channels ``index`` [B, r] of all blocks' channels.

    Args:
        blocks: residuals [B, c_k, h_k, w_k]; their channels are counted through.
        index: int64, an image's channels in the order wanted, repetitions allowed.
    """
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # no data-dependent shapes
        return chosen_maps_plain(blocks, index, size)
    chosen: Tensor = _ChosenMaps.apply(index, size, *blocks)
    return chosen


def chosen_maps_plain(blocks: Sequence[Tensor], index: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``chosen_maps`` from all channels at full size, by a repeated index."""
    full = torch.cat([upsampled(block, size) for block in blocks], 1)
    return full.gather(1, index[:, :, None, None].expand(-1, -1, *size))


class ResidualSelection(nn.Module):
    """Keeps, per image, the residual channels of largest maximum and of largest mean.

    Channels are compared after a batch norm without affine map, which is monotone per channel
    and therefore applied to the maximum and the mean alone. In training its statistics are the
    batch's (``stats="batch"``) or the running ones; in eval always the running ones.

    Args:
        channels: of all blocks together.
        by_max, by_mean: channels kept by each; both 0 keeps all in order.
        momentum: weight of the newest batch in the running statistics.
        stats: what training compares with.
        plain: every step at full size, as written in the paper.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        by_max: int,
        by_mean: int,
        *,
        momentum: float = 0.9,
        stats: str = "batch",
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.by_max, self.by_mean = by_max, by_mean
        self.momentum, self.stats, self.plain = momentum, stats, plain
        self.kept = by_max + by_mean or channels
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, blocks: Sequence[Tensor]) -> Tensor:
        """Return [B, kept, H, W] at the largest block's size, each part in descending order."""
        size = (max(b.shape[2] for b in blocks), max(b.shape[3] for b in blocks))
        if not self.by_max + self.by_mean:
            return torch.cat([upsampled(block, size) for block in blocks], 1)
        if self.plain:
            return self._plain(blocks, size)
        return chosen_maps(blocks, self.chosen(blocks, size), size)

    @torch.no_grad()
    def chosen(self, blocks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the kept channels [B, kept] int64."""
        moments = [upsampled_moments(block, size) for block in blocks]
        mean = torch.cat([m for m, _ in moments], 1)
        centre, variance = self.running_mean, self.running_var
        if self.training:
            square = torch.cat([s for _, s in moments], 1)
            batch = _statistics(mean, square)
            self._follow(batch, ranks.size() * mean.shape[0] * size[0] * size[1])
            if self.stats == "batch":
                centre, variance = (x.to(centre) for x in batch)
        scale = torch.rsqrt(variance + EPS)
        found = []
        if self.by_max:
            peak = torch.cat([upsampled_peak(block, size) for block in blocks], 1)
            found.append(((peak - centre) * scale).topk(self.by_max, 1).indices)
        if self.by_mean:
            found.append(((mean.to(scale) - centre) * scale).topk(self.by_mean, 1).indices)
        return torch.cat(found, 1)

    def _follow(self, batch: tuple[Tensor, Tensor], count: int) -> None:
        unbiased = batch[1] * (count / max(count - 1, 1))
        self.running_mean.lerp_(batch[0].to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var), self.momentum)

    def _plain(self, blocks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        full = torch.cat([upsampled(block, size) for block in blocks], 1)
        running = (self.running_mean, self.running_var)
        normal = ranks.batch_norm(full, *running, None, None, self.training, self.momentum, EPS)
        index = [normal.amax((2, 3)).topk(self.by_max, 1).indices] if self.by_max else []
        if self.by_mean:
            index.append(normal.mean((2, 3)).topk(self.by_mean, 1).indices)
        repeated = [i[:, :, None, None].repeat(1, 1, *size) for i in index]
        return torch.cat([full.gather(1, i) for i in repeated], 1)


def _statistics(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance [C] of a batch from its images' moments [B, C]."""
    # the moments of each process's images, averaged over processes
    centre, square = ranks.summed(torch.stack([mean.mean(0), square.mean(0)])) / ranks.size()
    return centre, (square - centre.square()).clamp_min(0)


class ChannelStatistics:
    """Mean and variance of channels over many images, whatever their batches and order."""

    def __init__(self) -> None:
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0
        self.weight = 0.0

    def add(self, blocks: Sequence[Tensor], weight: float = 1.0) -> None:
        """Count maps [B, c_k, h_k, w_k] brought to one size, each image with ``weight``."""
        size = (max(b.shape[2] for b in blocks), max(b.shape[3] for b in blocks))
        moments = [upsampled_moments(block, size) for block in blocks]
        self.mean = self.mean + weight * torch.cat([m for m, _ in moments], 1).sum(0)
        self.square = self.square + weight * torch.cat([s for _, s in moments], 1).sum(0)
        self.weight += weight * blocks[0].shape[0]

    def set(self, norm: nn.Module) -> None:
        """Make these the ``running_mean`` and ``running_var`` of ``norm``."""
        centre = torch.as_tensor(self.mean) / self.weight
        variance = (torch.as_tensor(self.square) / self.weight - centre.square()).clamp_min(0)
        norm.get_buffer("running_mean").copy_(centre)
        norm.get_buffer("running_var").copy_(variance)
