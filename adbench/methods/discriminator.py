"""The two trained parts: a linear adaptor and a small discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.ranks import batch_norm

SLOPE = 0.2


class Adaptor(nn.Linear):
    """Linear map u = A t + b of aggregated features [N, C], Xavier-normal weight."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        nn.init.xavier_normal_(self.weight)


class Discriminator(nn.Module):
    """Linear, batch normalisation, leaky ReLU, linear; a logit for every row.

    Args:
        width: columns of its input.
        hidden: width H of the hidden layer.
    """

    def __init__(self, width: int, hidden: int = 1024) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.output = nn.Linear(hidden, 1, bias=False)
        nn.init.xavier_normal_(self.hidden.weight)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, rows: Tensor, *, track: bool = True) -> Tensor:
        """Return logits [N] of rows [N, C].

        Training mode normalises by the statistics of ``rows`` and, with ``track``, moves the
        running ones; eval mode uses the running ones.
        """
        norm = self.norm
        live = self.training
        statistics = (norm.running_mean, norm.running_var) if track or not live else (None, None)
        normalised = batch_norm(
            self.hidden(rows),
            *statistics,
            norm.weight,
            norm.bias,
            live,
            norm.momentum or 0.0,
            norm.eps,
        )
        logits: Tensor = self.output(F.leaky_relu(normalised, SLOPE))
        return logits.squeeze(1)


class Head(nn.Module):
    """Adaptor (None: features are used as they are) and discriminator."""

    def __init__(self, width: int, hidden: int = 1024, *, adaptor: bool = True) -> None:
        super().__init__()
        self.adaptor = Adaptor(width) if adaptor else None
        self.discriminator = Discriminator(width, hidden)

    def adapted(self, rows: Tensor) -> Tensor:
        """Return u [N, C] of aggregated rows t [N, C]."""
        return rows if self.adaptor is None else self.adaptor(rows)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return (weight [H, C], bias [H], output [H]) of eval mode, normalisation included.

        The logit of a row t is ``output . leaky_relu(weight t + bias)``.
        """
        block = self.discriminator
        assert block.norm.running_var is not None
        assert block.norm.running_mean is not None
        weight, bias = block.hidden.weight.double(), block.hidden.bias.double()
        if self.adaptor is not None:
            bias = bias + weight @ self.adaptor.bias.double()
            weight = weight @ self.adaptor.weight.double()
        inverse = (block.norm.running_var.double() + block.norm.eps).rsqrt()
        scale = block.norm.weight.double() * inverse
        bias = (bias - block.norm.running_mean.double()) * scale + block.norm.bias.double()
        output = block.output.weight[0]
        return (weight * scale[:, None]).to(output), bias.to(output), output.clone()

    @torch.no_grad()
    def track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards a batch's, [H] each, variance biased."""
        norm = self.discriminator.norm
        momentum = norm.momentum or 0.0
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
        unbiased = variance * (count / max(count - 1, 1))
        norm.running_var.lerp_(unbiased.to(norm.running_var), momentum)
