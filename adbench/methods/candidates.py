"""Exact nearest neighbour by few columns: bounds on all distances, whole distances of a few.

Features are turned to the principal axes of the bank; the leading ones are kept, and the length
of what they leave out becomes one more column. Distances between features shortened like this are
at most the whole ones (triangle inequality on what is left out), and near them where the bank has
few directions, as features of photographs have: a third of the columns bounds so closely that a
handful of features is compared whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUERIES = 1024  # features compared at a time
TILE = 1024  # features of the bank to a product
_GROUP = 16  # features of the bank that are looked at as one before they are looked at alone
_MOST = 64  # groups to a feature beyond which another way is cheaper
SHARE = 0.94  # of the variance that the columns kept hold
_PAIRS = 1 << 12  # whole distances at a time
_BITS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}


class Candidates:
    """What a search among features reads.

    ``table`` [M, p + 7] holds the shortened features and their half squares, the latter split
    into three numbers that bfloat16 holds exactly enough; see ``_queries``.

    Args:
        exact: features [M, C] float32.
        dtype: of the products: bfloat16 where the processor multiplies faster in it, else float32.
        share: of the bank's variance that the columns kept hold; 1: all columns.
    """

    def __init__(self, exact: Tensor, dtype: torch.dtype, share: float = SHARE) -> None:
        self.exact = exact
        self.centre = exact.mean(0)
        self.axes = None if share >= 1 else _leading_axes(exact - self.centre, share)
        own = self._shortened(exact)
        rounded = own.to(dtype)
        table = torch.cat([rounded, _split(_half(own)).to(dtype), rounded.new_ones(len(own), 3)], 1)
        self.table = table.new_zeros(-(-len(own) // TILE) * TILE, table.shape[1])
        self.table[: len(own)] = table
        self.table[len(own) :, -6] = 1e30  # what fills the last tile is never near
        self.error = torch.linalg.vector_norm(own - rounded.float(), dim=1).amax()
        self.length = torch.linalg.vector_norm(own, dim=1).amax()

    def nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared distances [N] of rows [N, C] float32 to the nearest, and which are open.

        Open [K], indices of rows: bounds leave so many candidates that another way is cheaper, as
        of what looks like nothing in the bank; their distances are upper bounds.
        """
        shape = (len(self.table) // TILE, min(len(rows), QUERIES), _GROUP, TILE // _GROUP)
        products = self.table.new_empty(shape)  # fresh memory for each part would be paged in anew
        parts = [self._part(part, products[:, : len(part)]) for part in rows.split(QUERIES)]
        found, many = (torch.cat(each) for each in zip(*parts, strict=True))
        return found, many.nonzero()[:, 0]

    def _part(self, rows: Tensor, products: Tensor) -> tuple[Tensor, Tensor]:
        """Return squared distances of up to ``QUERIES`` rows, and True where they are open.

        A product of table and query is half the squared shortened distance, up to ``margin`` and
        its own rounding. Numbers are compared by their bits, which order positive ones alike and
        are four times faster to reduce; those below 0 (rounding) come first whatever their order.
        """
        queries, margin = self._queries(rows)
        bits = products.view(_BITS[products.dtype])
        tiles, groups = len(products), products.shape[-1]
        least = bits.new_empty(len(rows), tiles, groups)
        for number in range(tiles):
            tile = self.table[number * TILE : (number + 1) * TILE]
            torch.mm(queries, tile.mT, out=products[number].view(len(rows), TILE))
            torch.amin(bits[number], 1, out=least[:, number])
        first = least.flatten(1).argmin(1)
        every = torch.arange(len(rows), device=rows.device)
        member = bits[first // groups, every, :, first % groups].argmin(1)
        start = (first // groups) * TILE + member * groups + first % groups
        found = (rows - self.exact.index_select(0, start)).square_().sum(1)
        most = self._bound(found / 2 + margin)
        near = least <= most[:, None, None]
        many = near.flatten(1).sum(1) > _MOST
        near[many] = False
        query, tile, group = near.nonzero(as_tuple=True)
        members = bits[tile, query, :, group] <= most[query, None]
        pair, member = members.nonzero(as_tuple=True)
        index = tile[pair] * TILE + member * groups + group[pair]
        return self._least(found, rows, query[pair], index), many

    def _bound(self, value: Tensor) -> Tensor:
        """Return the bits [N] that the product of a feature within ``value`` does not exceed."""
        dtype = self.table.dtype
        grown = value * (1 + 2 * torch.finfo(dtype).eps)  # two roundings
        return grown.to(dtype).view(_BITS[dtype])

    def _queries(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return extended queries [N, p + 7] and the bound [N] on a product's error.

        |x.y - x'.y'| <= |x - x'| |y| + |x'| |y - y'| for rounded x', y'.
        """
        own = self._shortened(rows)
        rounded = own.to(self.table.dtype)
        half = _half(own)
        split = _split(half).to(rounded.dtype)
        extended = torch.cat([-rounded, rounded.new_ones(len(own), 3), split], 1)
        wrong = torch.linalg.vector_norm(own - rounded.float(), dim=1)
        length = (2 * half).sqrt()
        margin = wrong * self.length + (length + wrong) * self.error
        # what three bfloat16 leave of the half squares, and the order of float32 sums
        return extended, margin + 1e-5 * (half + self.length.square())

    def _shortened(self, rows: Tensor) -> Tensor:
        """Return [N, p + 1]: the leading axes' columns, then the length of what they leave out.

        With all columns, [N, C]: centred rows.
        """
        own = rows - self.centre
        if self.axes is None:
            return own
        short = own @ self.axes
        rest = torch.linalg.vector_norm(own - short @ self.axes.mT, dim=1)
        return torch.cat([short, rest[:, None]], 1)

    def _least(self, found: Tensor, rows: Tensor, query: Tensor, index: Tensor) -> Tensor:
        """Return the least of ``found`` [N] and the squared distances of pairs."""
        for part in range(0, len(query), _PAIRS):
            some = slice(part, part + _PAIRS)
            apart = rows.index_select(0, query[some]).sub_(self.exact.index_select(0, index[some]))
            squared = torch.linalg.vecdot(apart, apart)
            found.scatter_reduce_(0, query[some], squared, "amin")
        return found


def _leading_axes(own: Tensor, least: float) -> Tensor:
    """Return principal axes [C, p] of centred features [M, C], p a multiple of 32 or C.

    Args:
        least: share of the variance that they hold.
    """
    values, vectors = torch.linalg.eigh((own.mT @ own).double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1).to(own.dtype)
    share = values.cumsum(0) / values.sum().clamp(min=1e-300)
    count = int((share < least).sum()) + 1
    return vectors[:, : -(-count // 32) * 32].contiguous()


def _half(rows: Tensor) -> Tensor:
    return rows.square().sum(1) / 2


def _split(values: Tensor) -> Tensor:
    """Return [N, 3] bfloat16 whose sum is values [N] up to 2^-24 of them."""
    first = values.to(torch.bfloat16)
    second = (values - first.float()).to(torch.bfloat16)
    third = (values - first.float() - second.float()).to(torch.bfloat16)
    return torch.stack([first, second, third], 1)
