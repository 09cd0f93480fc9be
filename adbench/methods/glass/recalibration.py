"""Running statistics of the discriminator from a clean pass over the training normals."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from adbench.methods.aggregation import PatchFeatures
from adbench.methods.discriminator import Head
from adbench.methods.glass.fast_step import FastStep
from adbench.methods.glass.plain_step import StepInputs, StepKeys


@torch.no_grad()
def recalibrated(
    head: Head,
    batches: Iterable[tuple[PatchFeatures, Tensor]],
    keys: StepKeys,
    centre: Tensor | None,
) -> None:
    """Set the running statistics to those over all normal rows and their GAS rows.

    In training normal and GAS rows share one set of statistics; the running ones mostly
    remember the last batch. Here every image counts alike, and each batch is made as in
    training: noise, all ascent steps, the projections about the same base into the same radii.

    Args:
        head: changed in place.
        batches: features of the training normals with noise [N, C] for each row.
        keys: settings of an iteration.
        centre: [P, C] of the hypersphere, by the head as it is; None: manifold.
    """
    norm = head.discriminator.norm
    total = torch.zeros_like(norm.bias, dtype=torch.float64)
    square, count = total.clone(), 0
    for features, noise in batches:
        step = FastStep(head, features, None, StepInputs(noise, None, centre), keys)
        found = step.statistics()
        mean = found.mean.double()
        total += mean * found.size
        square += (found.variance.double() + mean**2) * found.size
        count += found.size
    mean = total / count
    variance = (square / count - mean**2) * (count / max(count - 1, 1))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
