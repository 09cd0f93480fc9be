"""Cross-attention whose keys and values are computed once for each prompt, not for each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PromptAttention:
    """An attention processor of diffusers.

    ``encoder_hidden_states`` holds the distinct prompts [P, L, D]; ``prompt_rows`` [B] says which
    of them each image attends to. Without gradient, keys and values are kept until prompts or
    weights change.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, Tensor, Tensor, Tensor] | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        prompt_rows: Tensor | None = None,
    ) -> Tensor:
        query = self._heads(attn, attn.to_q(hidden_states))
        if encoder_hidden_states is None:
            source = hidden_states
            key, value = attn.to_k(source), attn.to_v(source)
        else:
            assert prompt_rows is not None
            key, value = self._of_prompts(attn, encoder_hidden_states)
            key, value = key[prompt_rows], value[prompt_rows]
        mixed = F.scaled_dot_product_attention(
            query, self._heads(attn, key), self._heads(attn, value)
        )
        out: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, attn: Any, x: Tensor) -> Tensor:
        return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

    def _of_prompts(self, attn: Any, prompts: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            self._kept = None
            return attn.to_k(prompts), attn.to_v(prompts)
        state = (
            *(_state(tensor) for tensor in (prompts, attn.to_k.weight, attn.to_v.weight)),
            torch.is_autocast_enabled(prompts.device.type),
        )
        if self._kept is None or self._kept[0] != state:
            # the prompts are kept with them: else a new tensor could come to lie at their address
            self._kept = (state, attn.to_k(prompts), attn.to_v(prompts), prompts)
        return self._kept[1], self._kept[2]


def _state(tensor: Tensor) -> tuple[int, int, str]:
    """Return what changes when a tensor is replaced or written to."""
    version = 0 if tensor.is_inference() else tensor._version
    return (tensor.data_ptr(), version, str(tensor.device))


def share_prompts(network: nn.Module) -> None:
    """Give every attention of a UNet2DConditionModel such a processor."""
    processors = {name: PromptAttention() for name in network.attn_processors}  # type: ignore[union-attr]
    network.set_attn_processor(processors)  # type: ignore[operator]
