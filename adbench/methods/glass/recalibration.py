"""Running statistics of the discriminator from a clean pass over the training normals."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adbench.methods.glass.aggregation import PatchFeatures
from adbench.methods.glass.discriminator import Head
from adbench.methods.glass.projection import project
from adbench.methods.glass.settings import GasKeys


@torch.no_grad()
def recalibrated(
    head: Head, batches: Iterable[tuple[PatchFeatures, Tensor]], keys: GasKeys
) -> None:
    """Set the running statistics to those over all normal rows and their noisy twins.

    In training normal and GAS rows share one set of statistics; the running ones mostly
    remember the last batch. Here every image counts alike. The ascent is left out: it moves a
    row by a few per cent of its noise. In the manifold form the noise is clamped as in training;
    about a centre it is not, since there only the distance from the centre is.

    Args:
        head: changed in place.
        batches: features of the training normals with noise [N, C] for each row.
        keys: whether there are GAS rows.
    """
    norm = head.discriminator.norm
    total = torch.zeros_like(norm.bias, dtype=torch.float64)
    square, count = total.clone(), 0
    for features, noise in batches:
        adapted = head.adapted(features.rows())
        for rows in [adapted, *_twins(adapted, noise, keys)]:
            hidden = head.discriminator.hidden(rows).double()
            total += hidden.sum(0)
            square += (hidden * hidden).sum(0)
            count += len(hidden)
    mean = total / count
    variance = (square / count - mean**2) * (count / max(count - 1, 1))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _twins(adapted: Tensor, noise: Tensor, keys: GasKeys) -> list[Tensor]:
    if not keys.active:
        return []
    gas = adapted + noise
    if keys.project and keys.ascent and keys.noise:
        low, high = adapted.new_tensor(keys.r1), adapted.new_tensor(keys.r2)
        gas, _ = project(gas, adapted, low, high)
    return [gas]
