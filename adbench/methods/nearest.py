"""Squared distance of each feature to the nearest of a bank, exactly and in three ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from adbench.runs.environment import bfloat16_is_fast

_CHUNK = 2048  # features of the bank to a product: the result stays in the cache
_QUERIES = 1024  # features compared at a time
_TILE = 1024  # the same for bfloat16
_GROUP = 16  # features of the bank that are looked at as one before they are looked at alone
_MOST = 64  # candidates to a feature beyond which the full product is cheaper


def plain_nearest(rows: Tensor, bank: Tensor) -> Tensor:
    """Return [N] squared distances of rows [N, C] to the nearest of bank [M, C], both float32.

    One matrix product: what the others are tested against, and the form that is exported.
    """
    best = (bank.square().sum(1) / 2 - rows @ bank.mT).amin(1)
    return (2 * best + rows.square().sum(1)).clamp(min=0)


def chunked_nearest(rows: Tensor, bank: Tensor) -> Tensor:
    """Return what ``plain_nearest`` does; memory for ``_CHUNK`` features of the bank."""
    half = bank.square().sum(1) / 2
    best = rows.new_full((len(rows),), torch.inf)
    for start in range(0, len(bank), _CHUNK):
        part = slice(start, start + _CHUNK)
        near = torch.addmm(half[None, part], rows, bank[part].mT, alpha=-1).amin(1)
        torch.minimum(best, near, out=best)
    return (2 * best + rows.square().sum(1)).clamp(min=0)


class Bank(nn.Module):
    """Features kept, and what makes the search among them fast.

    Only ``kept`` is stored, in half precision: it rounds a feature by 5e-4 of its size.

    Args:
        count: features, M.
        width: their columns, C.
    """

    kept: Tensor
    exact: Tensor
    coarse: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(count, width, dtype=torch.float16))
        for name in ("exact", "coarse", "centre", "spread"):
            self.register_buffer(name, None, persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.settle())
        self.settle()

    def __len__(self) -> int:
        return len(self.kept)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.settle()  # .float() and the like would turn the coarse features too
        return self

    def set(self, rows: Tensor) -> None:
        """Take over features [M, C]."""
        self.kept = rows.to(torch.float16)
        self.settle()

    def settle(self) -> None:
        """Compute from ``kept`` what the search reads.

        ``coarse`` [M, C + 6] bfloat16 holds the centred features and, split into three numbers
        each that bfloat16 holds exactly enough, their half squares; see ``_coarse_queries``.
        """
        with torch.no_grad():
            self.exact = self.kept.float()
            self.centre = self.exact.mean(0)
            own = self.exact - self.centre
            rounded = own.to(torch.bfloat16)
            ones = rounded.new_ones(len(own), 3)
            half = _split(own.square().sum(1) / 2)
            coarse = torch.cat([rounded, half, ones], 1)
            self.coarse = coarse.new_zeros(-(-len(own) // _TILE) * _TILE, coarse.shape[1])
            self.coarse[: len(own)] = coarse
            self.coarse[len(own) :, -6] = 1e30  # what fills the last tile is never near
            error = torch.linalg.vector_norm(own - rounded.float(), dim=1).amax()
            length = torch.linalg.vector_norm(own, dim=1).amax()
            self.spread = torch.stack([error, length])

    def nearest(self, rows: Tensor) -> Tensor:
        """Return [N] squared distances of rows [N, C] to the nearest feature kept."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return plain_nearest(rows, self.exact)
        if len(self) <= _CHUNK or rows.is_cuda or not bfloat16_is_fast(rows.device):
            return chunked_nearest(rows, self.exact)
        return torch.cat([self._by_candidates(part) for part in rows.split(_QUERIES)])

    def _by_candidates(self, rows: Tensor) -> Tensor:
        """Return what ``nearest`` does, from bfloat16 products whose error is bounded.

        A product of the extended features is half the squared distance, up to ``margin`` and to
        its own rounding, a part in 256. Whatever may be the least within that is compared again
        in float32. Numbers are compared by their bits, which order positive ones alike and are
        four times faster to reduce; those below 0 (rounding) come first whatever their order.
        """
        queries, margin = self._coarse_queries(rows)
        tiles = self.coarse.unflatten(0, (-1, _TILE))
        products = queries.new_empty(len(tiles), len(rows), _GROUP, _TILE // _GROUP)
        bits = products.view(torch.int16)
        least = bits.new_empty(len(rows), len(tiles), _TILE // _GROUP)
        for number, tile in enumerate(tiles):
            torch.mm(queries, tile.mT, out=products[number].view(len(rows), _TILE))
            torch.amin(bits[number], 1, out=least[:, number])
        most = self._bound(least.amin((1, 2)).view(torch.bfloat16), margin)
        query, tile, group = (least <= most[:, None, None]).nonzero(as_tuple=True)
        if len(query) > _MOST * len(rows):
            return chunked_nearest(rows, self.exact)
        members = bits[tile, query, :, group] <= most[query, None]
        pair, member = members.nonzero(as_tuple=True)
        if len(pair) > _MOST * len(rows):
            return chunked_nearest(rows, self.exact)
        index = tile[pair] * _TILE + member * least.shape[2] + group[pair]
        return self._least(rows, query[pair], index)

    @staticmethod
    def _bound(best: Tensor, margin: Tensor) -> Tensor:
        """Return the bits [N] of a product that the nearest feature's does not exceed.

        The nearest one's is at most that of any other plus two margins, and a rounding of each.
        """
        value = best.float().abs() + 2 * margin
        return (value * (1 + 3 / 128)).to(torch.bfloat16).view(torch.int16)

    def _coarse_queries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return extended queries [N, C + 6] bfloat16 and the bound [N] on a product's error.

        |x.y - x'.y'| <= |x - x'| |y| + |x'| |y - y'| for rounded x', y'.
        """
        own = rows - self.centre
        rounded = own.to(torch.bfloat16)
        half = own.square().sum(1) / 2
        extended = torch.cat([-rounded, rounded.new_ones(len(own), 3), _split(half)], 1)
        wrong = torch.linalg.vector_norm(own - rounded.float(), dim=1)
        length = torch.linalg.vector_norm(own, dim=1)
        margin = wrong * self.spread[1] + (length + wrong) * self.spread[0]
        # what three bfloat16 leave of the half squares, and the order of float32 sums
        return extended, margin + 1e-5 * (half + self.spread[1].square())

    def _least(self, rows: Tensor, query: Tensor, index: Tensor) -> Tensor:
        """Return the least squared distance [N] over pairs of rows and features kept."""
        found = rows.new_full((len(rows),), torch.inf)
        for part in range(0, len(query), 8 * _CHUNK):
            some = slice(part, part + 8 * _CHUNK)
            squared = (rows[query[some]] - self.exact[index[some]]).square_().sum(1)
            found.scatter_reduce_(0, query[some], squared, "amin")
        return found


def _split(values: Tensor) -> Tensor:
    """Return [N, 3] bfloat16 whose sum is values [N] up to 2^-24 of them."""
    first = values.to(torch.bfloat16)
    second = (values - first.float()).to(torch.bfloat16)
    third = (values - first.float() - second.float()).to(torch.bfloat16)
    return torch.stack([first, second, third], 1)
