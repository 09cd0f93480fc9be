"""Anomaly-aware feature selection (AFS, Eq. 4): which channels see what the mask shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-4  # added to the range of a channel's residual


def resized_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Return mask [B, 1, H, W] as float32 [B, 1, h, w], nearest."""
    return F.interpolate(mask.float(), size=tuple(size), mode="nearest")


def afs_losses(
    anomalous: Tensor, normal: Tensor, mask: Tensor, *, per_image: bool = False
) -> Tensor:
    """Return the AFS loss of each channel for one batch of pairs, from five sums a channel.

    With e the squared difference, l and R its minimum and range, n values and m the mask, the
    mean of ((e - l) / R - m)^2 opens into sums of e, e^2, e m and m: neither the normalised
    residual nor a copy of the mask per channel is ever made.

    Args:
        anomalous, normal: [B, C, h, w] features of the composites and of their originals.
        mask: [B, 1, h, w] float, 0 or 1.
        per_image: normalise each image by its own range instead of the batch's.

    Returns:
        [C] float64; a channel without any difference gets the mean of the mask.
    """
    # One sweep: e is read for its extremes and three sums, then dropped. Sums are float64, since
    # the loss is a difference of large ones; the products with the mask stay in e's type.
    e = (anomalous - normal).square_().flatten(2)
    m = mask.flatten(2)
    low, high = e.amin(2), e.amax(2)
    total = e.sum(2, dtype=torch.float64)
    square = torch.linalg.vector_norm(e, dim=2, dtype=torch.float64).square()
    inside = torch.bmm(e, m.transpose(1, 2).to(e.dtype)).squeeze(2).double()
    area = m.sum(2, dtype=torch.float64).expand_as(total)
    n = float(e.shape[2])
    # Sums of images add up, extremes of images combine: the range of the whole batch needs no
    # second look at e.
    if not per_image:
        low, high = low.amin(0, keepdim=True), high.amax(0, keepdim=True)
        total, square, inside, area = (
            x.sum(0, keepdim=True) for x in (total, square, inside, area)
        )
        n *= e.shape[0]
    low = low.double()
    span = high.double() - low + EPS
    # n mean(((e - l) / R - m)^2) with m^2 = m: sum (e - l)^2 / R^2 - 2 sum (e - l) m / R + sum m
    fit = (square - 2 * low * total + n * low.square()) / span.square()
    loss = (fit - 2 * (inside - low * area) / span + area) / n
    return loss.mean(0)


def afs_losses_plain(
    anomalous: Tensor, normal: Tensor, mask: Tensor, *, per_image: bool = False
) -> Tensor:
    """Return ``afs_losses`` as written in the paper, with one label map per channel: [C]."""
    e = (anomalous - normal).square()
    label = mask.expand_as(e)
    # What one range is taken over: a channel's map of one image, or of the whole batch.
    over = (2, 3) if per_image else (0, 2, 3)
    low, high = e.amin(over, keepdim=True), e.amax(over, keepdim=True)
    predicted = (e - low) / (high - low + EPS)
    return F.mse_loss(predicted, label, reduction="none").mean((0, 2, 3)).double()


def kept_channels(loss: Tensor, kept: int) -> Tensor:
    """Return the ascending indices [kept] of the smallest losses [C]; NaN counts as largest."""
    finite = torch.nan_to_num(loss, nan=torch.finfo(loss.dtype).max)
    return torch.argsort(finite, stable=True)[:kept].sort().values


def channel_losses(
    pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor], Tensor]],
    *,
    per_image: bool = False,
    plain: bool = False,
) -> list[Tensor]:
    """Return the summed losses [C] float64 of every candidate map, all in one sweep.

    Args:
        pairs: per batch the maps [B, C, h, w] of the composites and of their originals, one
            per candidate, at the size of the block that would read them, and the masks
            [B, 1, H, W].
        per_image, plain: see ``afs_losses`` and ``afs_losses_plain``.
    """
    sums: list[Tensor] = []
    for anomalous, normal, mask in pairs:
        found = []
        for a, i in zip(anomalous, normal, strict=True):
            m = resized_mask(mask, a.shape[-2:])
            form = afs_losses_plain if plain else afs_losses
            found.append(form(a, i, m, per_image=per_image))
        sums = [x + y for x, y in zip(sums, found, strict=True)] if sums else found
    return sums


def selection_notes(
    names: Sequence[str], channels: Sequence[int], kept: Sequence[int]
) -> list[str]:
    """Return one line per layer on what is selected, with a warning where nothing is."""
    lines = []
    for name, c, m in zip(names, channels, kept, strict=True):
        note = ": all kept, nothing is selected here" if m == c else ""
        lines.append(f"afs: {name} keeps {m} of {c} channels{note}")
    if tuple(channels) == tuple(kept):
        lines.append("WARNING: afs selects nothing; lower model.afs.dims to make it choose")
    return lines
