"""The hidden block by hand: batch statistics, scores and gradients in cache-sized pieces.

N rows of H pre-activations do not fit a cache and every pass over them costs as much as a good
part of the matrix products, so that each function walks over pieces of rows and does all it
can with a piece before it takes the next. On an accelerator a piece is everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.methods import ranks
from adbench.methods.discriminator import SLOPE, Discriminator

PIECE_BYTES = 1 << 20


class Block(NamedTuple):
    """Detached parameters of a discriminator: W1 [H, C], gamma, beta and w2 [H], BN's epsilon."""

    weight: Tensor
    gamma: Tensor
    beta: Tensor
    output: Tensor
    eps: float


def block_of(discriminator: Discriminator) -> Block:
    """Return the detached parameters."""
    return Block(
        discriminator.hidden.weight.detach(),
        discriminator.norm.weight.detach(),
        discriminator.norm.bias.detach(),
        discriminator.output.weight.detach()[0],
        discriminator.norm.eps,
    )


class Moments(NamedTuple):
    """Sum and sum of squares of each column, [H], over ``size`` rows."""

    total: Tensor
    square: Tensor
    size: int

    def joined(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows."""
        return Moments(self.total + other.total, self.square + other.square, self.size + other.size)


class Norm(NamedTuple):
    """Batch statistics [H] and the affine map y = a scale + shift they give."""

    mean: Tensor
    variance: Tensor
    inverse: Tensor
    scale: Tensor
    shift: Tensor
    size: int


def pieces(rows: Tensor) -> Iterator[slice]:
    """Yield slices over rows [N, H]; on the CPU each is about as large as a core's cache."""
    count, width = rows.shape
    size = count
    if rows.device.type == "cpu":
        size = max(PIECE_BYTES // (width * rows.element_size()), 1) * torch.get_num_threads()
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def moments(rows: Tensor) -> Moments:
    """Return the moments of rows [N, H]."""
    total, square = rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1])
    for piece in pieces(rows):
        add_moments(rows[piece], total, square)
    return over_ranks(Moments(total, square, len(rows)))


def over_ranks(found: Moments) -> Moments:
    """Return the moments of the rows of all processes that share the step."""
    if ranks.size() == 1:
        return found
    total, square = ranks.summed(torch.stack([found.total, found.square]))
    return Moments(total, square, found.size * ranks.size())


def add_moments(piece: Tensor, total: Tensor, square: Tensor) -> None:
    """Add the column sums of piece [n, H] to ``total`` and those of its squares to ``square``."""
    total += piece.sum(0)
    square += (piece * piece).sum(0)


def norm_of(found: Moments, block: Block) -> Norm:
    """Return the batch normalisation of rows with these moments."""
    mean = found.total / found.size
    variance = (found.square / found.size - mean**2).clamp_min_(0)
    inverse = (variance + block.eps).rsqrt()
    scale = block.gamma * inverse
    return Norm(mean, variance, inverse, scale, block.beta - mean * scale, found.size)


def scores(rows: Tensor, norm: Norm, block: Block) -> Tensor:
    """Return the logits [N] of pre-activations rows [N, H]."""
    logits = rows.new_empty(len(rows))
    for piece in pieces(rows):
        active = F.leaky_relu_(torch.addcmul(norm.shift, rows[piece], norm.scale), SLOPE)
        torch.mv(active, block.output, out=logits[piece])
    return logits


class BlockGradients(NamedTuple):
    """Gradients of gamma, beta and w2, [H] each."""

    gamma: Tensor
    beta: Tensor
    output: Tensor

    def plus(self, other: BlockGradients) -> BlockGradients:
        """Return the sums."""
        return BlockGradients(*(a + b for a, b in zip(self, other, strict=True)))


def backward(
    groups: list[tuple[Tensor, Tensor]], norm: Norm, block: Block
) -> tuple[list[Tensor], BlockGradients]:
    """Return the gradients of the pre-activations and of the block's own parameters.

    Args:
        groups: (rows [N_i, H], gradient of their logits [N_i]) that share ``norm``.
        norm: statistics over all rows of all groups.
        block: parameters.

    Returns:
        One [N_i, H] gradient a group, through the batch statistics; gradients of gamma, beta, w2.
    """
    zeros = torch.zeros_like(block.gamma)
    sums = {"slope": zeros.clone(), "product": zeros.clone(), "active": zeros.clone()}
    deltas = [_gated(rows, upstream, norm, sums) for rows, upstream in groups]
    # Rows of all processes share the statistics. Each process's loss is the mean over its own
    # rows: what is added up here is ``size`` times the gradient of the mean over all.
    sums["slope"], sums["product"] = ranks.summed(torch.stack([sums["slope"], sums["product"]]))
    # Mean and deviation depend on every row: what they pass back is, for each column, a constant
    # and a multiple of the row, the same for all rows that share the statistics.
    centred = (sums["product"] - norm.mean * sums["slope"]) * norm.inverse
    d_gamma, d_beta = block.output * centred, block.output * sums["slope"]
    pull = norm.scale * norm.inverse * d_gamma / norm.size
    constant = norm.mean * pull - norm.scale * d_beta / norm.size
    front = norm.scale * block.output
    for delta, (rows, _) in zip(deltas, groups, strict=True):
        for piece in pieces(delta):
            part = delta[piece].mul_(front)
            part.addcmul_(rows[piece], pull, value=-1).add_(constant)
    share = ranks.size()
    return deltas, BlockGradients(d_gamma / share, d_beta / share, sums["active"])


def _gated(rows: Tensor, upstream: Tensor, norm: Norm, sums: dict[str, Tensor]) -> Tensor:
    """Return upstream times the leaky ReLU's slope [N, H]; add its column sums to ``sums``."""
    # ``active`` is reused as scratch once its sum is taken: one piece of memory a piece of rows.
    gated = torch.empty_like(rows)
    one = rows.new_ones(())
    for piece in pieces(rows):
        active = F.leaky_relu_(torch.addcmul(norm.shift, rows[piece], norm.scale), SLOPE)
        sums["active"] += active.mT.mv(upstream[piece])
        part = gated[piece]
        slope_of(one.expand_as(active), active, part)
        part.mul_(upstream[piece, None])
        sums["slope"] += part.sum(0)
        sums["product"] += torch.mul(part, rows[piece], out=active).sum(0)
    return gated


def slope_of(gradient: Tensor, active: Tensor, out: Tensor) -> None:
    """Write ``gradient`` times the leaky ReLU's slope into ``out``, given its result."""
    torch.ops.aten.leaky_relu_backward.grad_input(gradient, active, SLOPE, True, grad_input=out)
