"""One iteration with hand-made gradients, equal to ``plain_step`` to rounding.

Features stay aggregated: with M = W1 A every pre-activation is M t + b, the adaptor is never
applied to rows (manifold), the normal half of every ascent pass is a constant, and all weight
gradients come from delta^T t. Biases in front of the batch normalisation get zero gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adbench.methods.aggregation import PatchFeatures
from adbench.methods.discriminator import Head
from adbench.methods.glass.ascent import FeatureRows, GasRows, HiddenRows, ascend
from adbench.methods.glass.batch_norm import (
    Block,
    BlockGradients,
    Norm,
    backward,
    block_of,
    moments,
    norm_of,
    scores,
)
from adbench.methods.glass.losses import gas_loss, las_loss
from adbench.methods.glass.plain_step import StepInputs, StepKeys
from adbench.methods.glass.projection import (
    clamp_of,
    hypersphere_radii,
    hypersphere_radius,
    manifold_radii,
)


class Local(NamedTuple):
    """LAS rows on their way into the discriminator.

    Attributes:
        rows: [N, H] pre-activations.
        delta: [N, H] their gradient, once known.
        offset: [N, C] distance from the centre before the projection; None: manifold.
        factor: [N] scale of the projection.
        slope: [N] its derivative by the norm, over the norm.
    """

    rows: Tensor
    delta: Tensor | None = None
    offset: Tensor | None = None
    factor: Tensor | None = None
    slope: Tensor | None = None


class FastStep:
    """State of one iteration; ``run`` leaves the gradients in the head's parameters.

    Args:
        head: in training mode; running statistics move.
        normal: aggregated normal features.
        local: aggregated features of LAS images; None leaves them out.
        inputs: noise, targets, centre.
        keys: settings.
    """

    def __init__(
        self,
        head: Head,
        normal: PatchFeatures,
        local: PatchFeatures | None,
        inputs: StepInputs,
        keys: StepKeys,
    ) -> None:
        self.head, self.normal, self.inputs, self.keys = head, normal, inputs, keys
        self.local = local if inputs.target is not None else None
        self.block: Block = block_of(head.discriminator)
        adaptor = head.adaptor
        self.matrix = None if adaptor is None else adaptor.weight.detach()
        self.product = self.block.weight
        self.hidden_bias = head.discriminator.hidden.bias.detach()
        # What the pre-activations leave out: their bias and the mean of the normal ones.
        self.missing = self.hidden_bias.clone()
        if adaptor is not None:
            self.product = self.block.weight @ adaptor.weight.detach()
            self.missing += self.block.weight @ adaptor.bias.detach()
        self.gas: GasRows | None = None

    @torch.no_grad()
    def run(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its named parts, all detached."""
        rows, mean = self._normal_rows()
        offset = None if self.inputs.centre is None else self._offset(self.normal)
        local = self._local_rows(mean, offset)
        total, parts, global_deltas, gradients = self._global(rows, offset)
        # Local rows are normalised among themselves, after the ascent: their pass couples to
        # nothing above, and its gradients simply add up.
        if local is not None:
            local, parts["las"], own = self._backward_local(local)
            total = total + self.keys.loss.las_weight * parts["las"]
            gradients = gradients.plus(own)
        self._write_gradients(global_deltas, local, gradients)
        return total, parts

    @torch.no_grad()
    def statistics(self) -> Norm:
        """Return the batch statistics of the last pass over normal and GAS rows.

        Their mean is that of the whole pre-activations. Nothing is trained or tracked.
        """
        rows, _ = self._normal_rows()
        offset = None if self.inputs.centre is None else self._offset(self.normal)
        self._set_radii(offset, None)
        norm = norm_of(moments(rows), self.block)
        if self.keys.gas.active:
            gas = self._gas_rows(rows, offset)
            normal = moments(rows)
            norm, _ = ascend(gas, normal, self.block, self.keys.gas, self.radii.gas, _unseen)
        return norm._replace(mean=norm.mean + self.missing)

    def _normal_rows(self) -> tuple[Tensor, Tensor]:
        """Return the normal pre-activations [N, H] less their mean, and that mean [H]."""
        rows = self.normal.project(self.product)
        # The batch norm drops any constant. Taken out here, it cannot cost the sums of squares
        # their digits in float32; ``missing`` gives it back to the running statistics.
        found = moments(rows)
        mean = found.total / found.size
        rows -= mean
        self.missing += mean
        return rows, mean

    def _offset(self, features: PatchFeatures) -> Tensor:
        """Return u - c [N, C]."""
        centre = self.inputs.centre
        assert centre is not None
        rows = self._adapted(features)
        return (rows.view(-1, *centre.shape) - centre).view(-1, centre.shape[1])

    def _adapted(self, features: PatchFeatures) -> Tensor:
        """Return u [N, C]."""
        adaptor = self.head.adaptor
        if adaptor is None:
            return features.rows()
        return features.project(adaptor.weight.detach()) + adaptor.bias.detach()

    def _local_rows(self, mean: Tensor, offset: Tensor | None) -> Local | None:
        if self.local is None:
            self._set_radii(offset, None)
            return None
        rows = self.local.project(self.product) - mean
        own = None if self.inputs.centre is None else self._offset(self.local)
        self._set_radii(offset, own)
        if own is None or self.radii.las is None or not self.keys.gas.project:
            return Local(rows, offset=own)
        assert self.inputs.target is not None
        # Distances are feature space's, yet the clamp scales a row about the centre, and W1 is
        # linear: the same factor about the centre's pre-activations moves the hidden row.
        norm = torch.linalg.vector_norm(own, dim=1)
        clamp = clamp_of(norm, *self.radii.las)
        masked = self.inputs.target > 0
        factor = torch.where(masked, clamp.factor, torch.ones_like(norm))
        slope = torch.where(masked, clamp.slope / norm.clamp_min(1e-10), torch.zeros_like(norm))
        base = self._centre_rows(len(rows))
        rows = torch.addcmul(base, rows - base, factor[:, None])
        return Local(rows, offset=own, factor=factor, slope=slope)

    def _set_radii(self, offset: Tensor | None, local: Tensor | None) -> None:
        gas = self.keys.gas
        if offset is None:
            self.radii = manifold_radii(gas.r1, gas.r2, self.block.gamma)
            return
        distances = torch.linalg.vector_norm(offset, dim=1)
        if local is not None and self.inputs.target is not None:
            others = torch.linalg.vector_norm(local, dim=1)
            distances = torch.cat([others[self.inputs.target == 0], distances])
        self.radii = hypersphere_radii(hypersphere_radius(distances))

    def _centre_rows(self, count: int) -> Tensor:
        """Return the pre-activations of the centre, centred, repeated to [count, H]."""
        centre = self.inputs.centre
        assert centre is not None
        rows = centre @ self.block.weight.mT + (self.hidden_bias - self.missing)
        return rows.repeat(count // len(centre), 1)

    def _global(
        self, rows: Tensor, offset: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor], BlockGradients]:
        """Return loss, parts, gradients of the normal and GAS rows and of the block."""
        normal = moments(rows)
        if not self.keys.gas.active:
            norm = norm_of(normal, self.block)
            self._track(norm)
            logits = scores(rows, norm, self.block)
            loss, upstream = _with_gradient(lambda z: gas_loss(z, 0.0), logits)
            deltas, gradients = backward([(rows, upstream)], norm, self.block)
            return loss, {"normal": loss}, deltas, gradients
        gas = self._gas_rows(rows, offset)
        norm, first = ascend(gas, normal, self.block, self.keys.gas, self.radii.gas, self._seen)
        self._track(norm)
        normal_loss, normal_up = _with_gradient(
            lambda z: gas_loss(z, 0.0), scores(rows, norm, self.block)
        )
        gas_only, gas_up = _with_gradient(
            lambda z: gas_loss(z, 1.0), scores(gas.rows, norm, self.block)
        )
        deltas, gradients = backward([(rows, normal_up), (gas.rows, gas_up)], norm, self.block)
        parts = {
            "normal": normal_loss,
            "gas": gas_only,
            "gas_first": gas_loss(first, 1.0),
            "clamped": gas.outside.to(rows.dtype).mean(),
        }
        return normal_loss + gas_only, parts, deltas, gradients

    def _gas_rows(self, rows: Tensor, offset: Tensor | None) -> GasRows:
        # A step costs H^2 a row in hidden space, 2 C H with the features kept.
        hidden, width = self.block.weight.shape
        kind = HiddenRows if hidden < 2 * width else FeatureRows
        base, start = rows, self.inputs.noise
        # About a centre the whole way from there to the normal feature is part of what moves.
        if offset is not None:
            base = self._centre_rows(len(rows))
            start = offset + start
        jacobian = offset is not None
        self.gas = kind(start, base, self.block.weight, bf16=self.keys.gas.bf16, jacobian=jacobian)
        return self.gas

    def _seen(self, norm: Norm) -> None:
        if self.keys.every_pass:
            self._track(norm)

    def _track(self, norm: Norm) -> None:
        self.head.track(norm.mean + self.missing, norm.variance, norm.size)

    def _backward_local(self, local: Local) -> tuple[Local, Tensor, BlockGradients]:
        target, keys = self.inputs.target, self.keys.loss
        assert target is not None
        norm = norm_of(moments(local.rows), self.block)
        if self.keys.every_pass:
            self._track(norm)
        logits = scores(local.rows, norm, self.block)
        loss, upstream = _with_gradient(lambda z: las_loss(z, target, keys), logits)
        (delta,), gradients = backward([(local.rows, keys.las_weight * upstream)], norm, self.block)
        return local._replace(delta=delta), loss, gradients

    def _write_gradients(
        self, deltas: list[Tensor], local: Local | None, gradients: BlockGradients
    ) -> None:
        discriminator = self.head.discriminator
        if self.inputs.centre is None:
            weight, adaptor, bias = self._manifold_gradients(deltas, local)
        else:
            weight, adaptor, bias = self._hypersphere_gradients(deltas, local)
        discriminator.hidden.weight.grad = weight
        # Exactly zero: a constant added to all rows leaves the batch norm's output as it is.
        discriminator.hidden.bias.grad = torch.zeros_like(discriminator.hidden.bias)
        discriminator.norm.weight.grad = gradients.gamma
        discriminator.norm.bias.grad = gradients.beta
        discriminator.output.weight.grad = gradients.output[None]
        if self.head.adaptor is not None:
            self.head.adaptor.weight.grad = adaptor
            self.head.adaptor.bias.grad = bias

    def _manifold_gradients(
        self, deltas: list[Tensor], local: Local | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of W1, A and b_A; a GAS row's by its normal feature is I."""
        # A GAS row is u + h and h does not depend on u, clamped or not (its base moves along):
        # its gradient reaches t through the same M as the normal row's, so the two are one product.
        outer = self.gas.outer(deltas[1]) if self.gas is not None else None
        both = deltas[0] if self.gas is None else deltas[0].add_(deltas[1])
        gradient = self.normal.weight_gradient(both)  # G = dL/dM; dW1 = G A^T, dA = W1^T G
        if local is not None and self.local is not None and local.delta is not None:
            gradient += self.local.weight_gradient(local.delta)
        weight = gradient if self.matrix is None else gradient @ self.matrix.mT
        if outer is not None:
            weight = weight + outer
        if self.head.adaptor is None:
            return weight, None, None
        bias = torch.zeros_like(self.head.adaptor.bias)
        return weight, self.block.weight.mT @ gradient, bias

    def _hypersphere_gradients(
        self, deltas: list[Tensor], local: Local | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of W1, A and b_A through the clamps about the centre."""
        centre = self.inputs.centre
        assert centre is not None
        # Here the base is a constant and clamped rows have a Jacobian of their own, so that the
        # gradient of u is pulled back row by row before it meets the features.
        weight = deltas[0].mT @ self._adapted(self.normal)
        pulled = deltas[0] @ self.block.weight
        if self.gas is not None:
            weight += _by_position(deltas[1], centre).mT @ centre + self.gas.outer(deltas[1])
            pulled += self.gas.pull_back(deltas[1])
        adaptor = self.normal.weight_gradient(pulled)
        bias = pulled.sum(0)
        if local is not None and self.local is not None and local.delta is not None:
            # d(f h)/dh applied from the left: f g + (g . h) slope h, see ``clamp_of``.
            own = local.delta @ self.block.weight
            assert local.offset is not None
            offset = local.offset
            if local.factor is not None and local.slope is not None:
                along = (own * offset).sum(1) * local.slope
                own = (own * local.factor[:, None]).addcmul_(offset, along[:, None])
                offset = offset * local.factor[:, None]
            weight += _by_position(local.delta, centre).mT @ centre + local.delta.mT @ offset
            adaptor += self.local.weight_gradient(own)
            bias += own.sum(0)
        return weight, adaptor, bias


def _unseen(norm: Norm) -> None:
    """Track nothing."""
    del norm


def _by_position(delta: Tensor, centre: Tensor) -> Tensor:
    """Return delta [B*P, H] summed over the batch: [P, H]."""
    return delta.view(-1, len(centre), delta.shape[1]).sum(0)


def _with_gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of logits [N], detached, and its gradient [N]."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        value = loss(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient
