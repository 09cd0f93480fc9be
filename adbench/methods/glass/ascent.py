"""Gradient ascent of GAS features with the normal half of the batch held as a constant (Eq. 1).

A GAS row is ``v = base + h``: base is the normal feature (manifold) or the centre (hypersphere).
The rows live in pre-activations a = W1 v, less the mean of the normal ones (biases cancel in
the batch normalisation). Two forms give the same rows: ``FeatureRows`` keeps h itself (2 C H a
row and step), ``HiddenRows`` keeps h = s e + W1^T d by s and d (H^2 a row and step).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.methods import ranks
from adbench.methods.discriminator import SLOPE
from adbench.methods.glass.batch_norm import (
    Block,
    Moments,
    Norm,
    add_moments,
    moments,
    norm_of,
    over_ranks,
    pieces,
    scores,
    slope_of,
)
from adbench.methods.glass.projection import Clamp, clamp_of
from adbench.methods.glass.settings import GasKeys

FLOOR = 1e-10


class GasRows(ABC):
    """GAS rows on their way.

    Attributes:
        rows: [N, H] their pre-activations.
        outside: [N] bool, rows that some projection clamped.

    Args:
        offset: [N, C] h before the first step.
        base: [N, H] pre-activations of the bases.
        weight: W1 [H, C].
        bf16: matrix products of the ascent's direction in bfloat16.
        jacobian: keep what ``pull_back`` needs (the base does not move with the features).
    """

    def __init__(
        self,
        offset: Tensor,
        base: Tensor,
        weight: Tensor,
        *,
        bf16: bool = False,
        jacobian: bool = False,
    ) -> None:
        self.base, self.weight, self.bf16, self.jacobian = base, weight, bf16, jacobian
        self.rows = torch.addmm(base, offset, weight.mT)
        self.outside = torch.zeros(len(base), dtype=torch.bool, device=base.device)

    @abstractmethod
    def move(self, piece: slice, delta: Tensor, constant: Tensor, step_size: float) -> None:
        """Take one step along the gradient; ``delta + constant`` is that of ``rows[piece]``."""

    @abstractmethod
    def project(self, piece: slice, radii: tuple[Tensor, Tensor]) -> None:
        """Clamp |h| into ``radii`` (Eq. 2)."""

    @abstractmethod
    def update(self, piece: slice) -> None:
        """Bring ``rows[piece]`` up to date with h."""

    @abstractmethod
    def outer(self, delta: Tensor) -> Tensor:
        """Return delta^T h [H, C] for delta [N, H]."""

    @abstractmethod
    def pull_back(self, delta: Tensor) -> Tensor:
        """Return [N, C]: the gradient of h's start for the gradient delta [N, H] of ``rows``."""


def ascend(
    gas: GasRows,
    normal: Moments,
    block: Block,
    keys: GasKeys,
    radii: tuple[Tensor, Tensor],
    seen: Callable[[Norm], None],
) -> tuple[Norm, Tensor]:
    """Take all steps; return the statistics of the final pass and the first pass' logits [N].

    Args:
        gas: rows, moved in place.
        normal: moments of the normal half.
        block: discriminator.
        keys: number and length of the steps.
        radii: of the projection.
        seen: told the statistics of every pass but the last.
    """
    if keys.projects_noise:
        for piece in pieces(gas.rows):
            gas.project(piece, radii)
            gas.update(piece)
    norm = norm_of(normal.joined(moments(gas.rows)), block)
    first = None
    gates = torch.empty_like(gas.rows)  # fresh memory at each step would cost a page fault a page
    for step in range(keys.moves):
        # The normal half is a constant of the ascent: it enters by its moments alone, and the
        # moving half feels it through two vectors of batch statistics.
        seen(norm)
        upstream, logits, sums = _gates(gas.rows, norm, block, gates)
        first = logits if first is None else first
        total, square = torch.zeros_like(block.gamma), torch.zeros_like(block.gamma)
        # One walk does it all while a piece is in the cache: gradient, move, projection, and the
        # moments that the next step's normalisation needs.
        for piece in pieces(gas.rows):
            delta = gates[piece].mul_(upstream[piece, None])
            delta.addcmul_(gas.rows[piece], sums.pull, value=-1)
            gas.move(piece, delta, sums.constant, keys.step_size)
            if keys.projects_after(step):
                gas.project(piece, radii)
            gas.update(piece)
            add_moments(gas.rows[piece], total, square)
        moved = over_ranks(Moments(total, square, len(gas.rows)))
        norm = norm_of(normal.joined(moved), block)
    if first is None:
        first = scores(gas.rows, norm, block)
    return norm, first


class _Sums(NamedTuple):
    """The coupling of all rows through the batch statistics: two vectors [H]."""

    pull: Tensor
    constant: Tensor


def _gates(rows: Tensor, norm: Norm, block: Block, gates: Tensor) -> tuple[Tensor, Tensor, _Sums]:
    """Return what the gradient of the mean BCE against 1 is made of.

    delta = gates * upstream - pull * rows + constant, with gates [N, H] (w2 and the
    normalisation's scale times the leaky ReLU's slope; written in place), upstream [N] and two
    vectors [H]. Also returns the logits [N].
    """
    upstream, logits = rows.new_empty(len(rows)), rows.new_empty(len(rows))
    front = norm.scale * block.output
    active_sum, gate_sum = torch.zeros_like(front), torch.zeros_like(front)
    for piece in pieces(rows):
        active = F.leaky_relu_(torch.addcmul(norm.shift, rows[piece], norm.scale), SLOPE)
        logit = torch.mv(active, block.output, out=logits[piece])
        dz = torch.sub(torch.sigmoid(logit), 1, out=upstream[piece]).div_(len(rows))
        active_sum += active.mT.mv(dz)
        slope_of(front.expand_as(active), active, gates[piece])
        gate_sum += gates[piece].mT.mv(dz)
    active_sum, gate_sum = ranks.summed(torch.stack([active_sum, gate_sum]))
    # Backward through the batch norm y = gamma x + beta of the standardised x: with g the
    # gradient by y, that by its input is scale (g - mean g - x mean(g x)), means over all 2 N
    # rows. Only GAS rows have a g, and the sum of g y is that of w2 leaky_relu(y) dz, at hand.
    gamma = torch.where(block.gamma == 0, torch.full_like(block.gamma, 1e-30), block.gamma)
    product = block.output * active_sum * norm.inverse - block.beta * gate_sum / gamma
    pull = norm.inverse * product / norm.size
    constant = norm.mean * pull - gate_sum / norm.size
    return upstream, logits, _Sums(pull, constant)


class FeatureRows(GasRows):
    """h [N, C] itself: cheaper where H >= 2 C."""

    def __init__(
        self,
        offset: Tensor,
        base: Tensor,
        weight: Tensor,
        *,
        bf16: bool = False,
        jacobian: bool = False,
    ) -> None:
        super().__init__(offset, base, weight, bf16=bf16, jacobian=jacobian)
        self.offset = offset.clone()
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []
        self._back = weight.bfloat16() if bf16 else weight

    def move(self, piece: slice, delta: Tensor, constant: Tensor, step_size: float) -> None:
        pulled = (delta.to(self._back.dtype) @ self._back).to(delta.dtype)
        pulled += constant @ self.weight
        length = torch.linalg.vector_norm(pulled, dim=1, keepdim=True).add_(FLOOR)
        self.offset[piece].addcmul_(pulled, step_size / length)

    def project(self, piece: slice, radii: tuple[Tensor, Tensor]) -> None:
        part = self.offset[piece]
        norm = torch.linalg.vector_norm(part, dim=1)
        clamp = clamp_of(norm, *radii)
        self.outside[piece] |= clamp.clamped
        if self.jacobian:
            direction = part / norm.clamp_min(FLOOR)[:, None]
            self._remember(piece, direction, clamp, norm)
        part.mul_(clamp.factor[:, None])

    def _remember(self, piece: slice, direction: Tensor, clamp: Clamp, norm: Tensor) -> None:
        if piece.start == 0:
            count = len(self.offset)
            empty = norm.new_empty(count)
            self.history.append((torch.empty_like(self.offset), empty, torch.empty_like(empty)))
        kept = self.history[-1]
        for whole, part in zip(kept, (direction, clamp.factor, clamp.slope * norm), strict=True):
            whole[piece] = part

    def update(self, piece: slice) -> None:
        torch.addmm(self.base[piece], self.offset[piece], self.weight.mT, out=self.rows[piece])

    def outer(self, delta: Tensor) -> Tensor:
        return delta.mT @ self.offset

    def pull_back(self, delta: Tensor) -> Tensor:
        gradient = delta @ self.weight
        for direction, factor, slope in reversed(self.history):
            along = (gradient * direction).sum(1) * slope
            gradient = gradient * factor[:, None] + direction * along[:, None]
        return gradient


class HiddenRows(GasRows):
    """h = s e + W1^T d, by s [N] and d [N, H]: cheaper where H < 2 C."""

    def __init__(
        self,
        offset: Tensor,
        base: Tensor,
        weight: Tensor,
        *,
        bf16: bool = False,
        jacobian: bool = False,
    ) -> None:
        super().__init__(offset, base, weight, bf16=bf16, jacobian=jacobian)
        self.start = offset
        self.start_rows = self.rows - base
        self.start_square = (offset * offset).sum(1)
        self.share = offset.new_ones(len(offset))
        self.move_rows = torch.zeros_like(base)
        gram = weight @ weight.mT
        self._gram = gram.bfloat16() if bf16 else gram
        self.history: list[tuple[Tensor, ...]] = []

    def move(self, piece: slice, delta: Tensor, constant: Tensor, step_size: float) -> None:
        # The step in feature space is W1^T delta: its length is sqrt(delta . K delta) with
        # K = W1 W1^T, and what it adds to the rows is K delta. Neither needs C columns.
        delta += constant
        q = (delta.to(self._gram.dtype) @ self._gram).to(delta.dtype)
        square = torch.linalg.vecdot(delta, q).clamp_min_(0)
        length = step_size / (square.sqrt() + FLOOR)
        self.rows[piece].addcmul_(q, length[:, None])
        self.move_rows[piece].addcmul_(delta, length[:, None])

    def project(self, piece: slice, radii: tuple[Tensor, Tensor]) -> None:
        moved, share = self.move_rows[piece], self.share[piece]
        begun = self.start_rows[piece]
        # |h|^2 = s^2 |e|^2 + 2 s (W1 e) . d + d . K d, and K d is what the rows have moved by.
        gram_moved = (self.rows[piece] - self.base[piece]).addcmul_(begun, share[:, None], value=-1)
        cross = (begun * moved).sum(1)
        square = share**2 * self.start_square[piece] + 2 * share * cross
        norm = (square + (moved * gram_moved).sum(1)).clamp_min_(0).sqrt()
        clamp = clamp_of(norm, *radii)
        self.outside[piece] |= clamp.clamped
        if self.jacobian:
            slope = clamp.slope / norm.clamp_min(FLOOR)
            self._remember(piece, (moved, gram_moved, share, cross, clamp.factor, slope))
        # Scaling h scales both of its parts; the rows follow about their base.
        moved.mul_(clamp.factor[:, None])
        share.mul_(clamp.factor)
        base = self.base[piece]
        self.rows[piece] = torch.addcmul(base, self.rows[piece] - base, clamp.factor[:, None])

    def _remember(self, piece: slice, parts: tuple[Tensor, ...]) -> None:
        if piece.start == 0:
            count = len(self.rows)
            self.history.append(tuple(part.new_empty(count, *part.shape[1:]) for part in parts))
        for whole, part in zip(self.history[-1], parts, strict=True):
            whole[piece] = part

    def update(self, piece: slice) -> None:
        """The rows move with every step already."""

    def outer(self, delta: Tensor) -> Tensor:
        begun = (delta * self.share[:, None]).mT @ self.start
        return begun + (delta.mT @ self.move_rows) @ self.weight

    def pull_back(self, delta: Tensor) -> Tensor:
        # The gradient stays in the span of e and the rows of W1: alpha e + W1^T rho.
        rho, alpha = delta.clone(), delta.new_zeros(len(delta))
        for moved, gram_moved, share, cross, factor, slope in reversed(self.history):
            # h . (alpha e + W1^T rho) with h = share e + W1^T moved
            along = alpha * (share * self.start_square + cross)
            along += share * (self.start_rows * rho).sum(1) + (gram_moved * rho).sum(1)
            along *= slope
            alpha = factor * alpha + along * share
            rho = rho.mul_(factor[:, None]).addcmul_(moved, along[:, None])
        return torch.addmm(self.start * alpha[:, None], rho, self.weight)
