"""Inference: patch features, the discriminator folded into a matrix and a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.discriminator import SLOPE, Head
from adbench.methods.memory import refuse_beyond
from adbench.methods.patches import PatchDetector


class SimplenetDetector(PatchDetector):
    """Backbone and folded discriminator; a distance is the negative logit of being normal.

    Args:
        backbone, image_size, patch, score, sigma: as ``PatchDetector``.
        hidden: width of the hidden layer.
    """

    weight: Tensor
    bias: Tensor
    output: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        hidden: int,
        patch: int | None = None,
        score: str = "grid",
        sigma: float = 4.0,
    ) -> None:
        super().__init__(backbone, image_size, patch, sigma, score)
        refuse_beyond(4 * hidden * self.columns, "the folded discriminator", "model.hidden")
        self.register_buffer("weight", torch.zeros(hidden, self.columns))
        self.register_buffer("bias", torch.zeros(hidden))
        self.register_buffer("output", torch.zeros(hidden))
        self.config["hidden"] = hidden

    @torch.no_grad()
    def fold(self, head: Head) -> None:
        """Take over what ``head`` computes in eval mode."""
        for own, folded in zip((self.weight, self.bias, self.output), head.folded(), strict=True):
            own.copy_(folded)

    def distances(self, rows: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # an export: a loop would fix its batch
            return self._against(rows)
        found = [self._against(image) for image in rows]  # one image's hidden layer at a time
        return torch.stack(found)

    def _against(self, rows: Tensor) -> Tensor:
        """Return the negative logits; OpenVINO 2026.4 cannot fuse a sign behind the product."""
        return F.leaky_relu_(F.linear(rows, self.weight, self.bias), SLOPE) @ -self.output
