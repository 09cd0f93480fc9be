"""Squared distance of each feature to the nearest of a bank, exactly and in three ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from adbench.methods.candidates import Candidates
from adbench.runs.environment import bfloat16_is_fast

_SMALL = 8192  # features up to which bfloat16 compares all columns at once
_CHUNK = 2048  # features of the bank to a product: the result stays in the cache


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

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(count, width, dtype=torch.float16))
        self.register_buffer("exact", None, persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.settle())
        self.settle()

    def __len__(self) -> int:
        return len(self.kept)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.settle()
        return self

    def set(self, rows: Tensor) -> None:
        """Take over features [M, C]."""
        self.kept = rows.to(torch.float16)
        self.settle()

    def settle(self) -> None:
        """Compute from ``kept`` what the search reads."""
        self.exact = self.kept.float()
        self._ways: list[Candidates] = []  # made when first asked for

    def search_in(self, dtype: torch.dtype) -> None:
        """Make what bounds distances by products in bfloat16 or float32; neither changes them.

        Few columns decide what resembles the bank. In bfloat16 all of them are cheap enough for
        the rest, and for a small bank, where shortening costs what it spares.
        """
        few = dtype == torch.float32 or len(self) > _SMALL
        self._ways = [Candidates(self.exact, dtype)] if few else []
        if dtype == torch.bfloat16:
            self._ways.append(Candidates(self.exact, dtype, share=1.0))

    def nearest(self, rows: Tensor) -> Tensor:
        """Return [N] squared distances of rows [N, C] to the nearest feature kept."""
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return plain_nearest(rows, self.exact)
        if len(self) <= _CHUNK or rows.is_cuda:
            return chunked_nearest(rows, self.exact)
        if not self._ways:
            self.search_in(torch.bfloat16 if bfloat16_is_fast(rows.device) else torch.float32)
        found, left = self._ways[0].nearest(rows)
        for way in self._ways[1:]:
            if len(left):
                found[left], still = way.nearest(rows[left])
                left = left[still]
        if len(left):
            found[left] = chunked_nearest(rows[left], self.exact)
        return found
