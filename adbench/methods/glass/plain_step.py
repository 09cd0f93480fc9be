"""One iteration as published: autograd over both halves at every ascent step.

The reference of ``fast_step``; nothing here is clever.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adbench.methods.discriminator import Head
from adbench.methods.glass.losses import gas_loss, las_loss
from adbench.methods.glass.projection import (
    Radii,
    hypersphere_radii,
    hypersphere_radius,
    manifold_radii,
    project,
)
from adbench.methods.glass.settings import GasKeys, LossKeys


class StepInputs(NamedTuple):
    """What one iteration sees.

    Attributes:
        noise: [N, C] drawn from N(0, sigma^2).
        target: [N] floating point 0 or 1, the LAS mask on the grid; None leaves LAS out.
        centre: [P, C] centre of each position, P rows an image; None: manifold hypothesis.
    """

    noise: Tensor
    target: Tensor | None
    centre: Tensor | None


class StepKeys(NamedTuple):
    """Settings of one iteration; ``every_pass`` moves running statistics at every pass."""

    gas: GasKeys
    loss: LossKeys
    every_pass: bool


def plain_losses(
    head: Head, normal: Tensor, local: Tensor | None, inputs: StepInputs, keys: StepKeys
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss with its graph and its named parts (Alg. 1).

    Args:
        head: in training mode; running statistics move.
        normal: [N, C] aggregated normal features t.
        local: [N, C] aggregated features of LAS images; None leaves them out.
        inputs: noise, targets, centre.
        keys: settings.
    """
    adapted = head.adapted(normal)
    adapted_local = None if local is None else head.adapted(local)
    base = adapted
    if inputs.centre is not None:
        base = inputs.centre.repeat(len(adapted) // len(inputs.centre), 1)
    radii = _radii(adapted.detach(), adapted_local, base.detach(), inputs, keys.gas)
    total, parts = _global_loss(head, adapted, base, radii, inputs, keys)
    if adapted_local is not None and inputs.target is not None:
        features = _projected_local(adapted_local, base, radii, inputs.target, keys.gas)
        logits = head.discriminator(features, track=keys.every_pass)
        parts["las"] = las_loss(logits, inputs.target, keys.loss)
        total = total + keys.loss.las_weight * parts["las"]
    return total, {name: value.detach() for name, value in parts.items()}


def _radii(
    adapted: Tensor, local: Tensor | None, base: Tensor, inputs: StepInputs, keys: GasKeys
) -> Radii:
    if inputs.centre is None:
        return manifold_radii(keys.r1, keys.r2, adapted)
    distances = torch.linalg.vector_norm(adapted - base, dim=1)
    if local is not None and inputs.target is not None:
        others = torch.linalg.vector_norm(local.detach() - base, dim=1)
        distances = torch.cat([others[inputs.target == 0], distances])
    return hypersphere_radii(hypersphere_radius(distances))


def _projected_local(
    local: Tensor, base: Tensor, radii: Radii, target: Tensor, keys: GasKeys
) -> Tensor:
    if radii.las is None or not keys.project:
        return local
    moved, _ = project(local, base, *radii.las)
    return torch.where(target[:, None] > 0, moved, local)


def _global_loss(
    head: Head,
    adapted: Tensor,
    base: Tensor,
    radii: Radii,
    inputs: StepInputs,
    keys: StepKeys,
) -> tuple[Tensor, dict[str, Tensor]]:
    if not keys.gas.active:
        loss = gas_loss(head.discriminator(adapted), 0.0)
        return loss, {"normal": loss}
    gas, clamped = adapted + inputs.noise, torch.zeros_like(adapted[:, 0], dtype=torch.bool)
    if keys.gas.projects_noise:
        gas, clamped = project(gas, base, *radii.gas)
    gas.requires_grad_()
    first = adapted.new_zeros(())
    for step in range(keys.gas.moves + 1):
        last = step == keys.gas.moves
        logits = head.discriminator(torch.cat([adapted, gas]), track=keys.every_pass or last)
        normal_loss = gas_loss(logits[: len(adapted)], 0.0)
        gas_only = gas_loss(logits[len(adapted) :], 1.0)
        first = gas_only if step == 0 else first
        if last:
            break
        gas, outside = _moved(gas, base, gas_only, step, radii, keys.gas)
        clamped = clamped if outside is None else clamped | outside
    parts = {
        "normal": normal_loss,
        "gas": gas_only,
        "gas_first": first,
        "clamped": clamped.to(adapted.dtype).mean(),
    }
    return normal_loss + gas_only, parts


def _moved(
    gas: Tensor, base: Tensor, loss: Tensor, step: int, radii: Radii, keys: GasKeys
) -> tuple[Tensor, Tensor | None]:
    (gradient,) = torch.autograd.grad(loss, gas)
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gas = gas + keys.step_size * gradient / (norm + 1e-10)
    if not keys.projects_after(step):
        return gas, None
    return project(gas, base, *radii.gas)
