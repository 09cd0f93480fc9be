"""The centre of the adapted normal features (Sec. 3.2), from the mean of the aggregated ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adbench.methods.aggregation import PatchFeatures


def feature_mean(batches: Iterable[PatchFeatures], form: str) -> Tensor:
    """Return the mean of t at each position, [h*w, C].

    The adaptor is linear: the centre of the adapted features is the adapted mean, so that this
    is computed once.

    Args:
        batches: features of all training normals.
        form: ``position`` (mean over images), ``scalar`` (and over positions, repeated) or
            ``code`` (mean of batch means: a smaller last batch weighs more).
    """
    total: Tensor | None = None
    weight = 0.0
    for features in batches:
        rows = features.rows().double().view(len(features), -1, features.width)
        found, share = (rows.mean(0), 1.0) if form == "code" else (rows.sum(0), float(len(rows)))
        total = found if total is None else total + found
        weight += share
    if total is None:
        raise ValueError("no batch to take the centre of")
    mean = total / weight
    if form == "scalar":
        mean = mean.mean(0, keepdim=True).expand_as(mean)
    return mean.to(torch.get_default_dtype()).contiguous()
