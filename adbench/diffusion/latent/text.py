"""Tokens in the place of a word of the prompt of a published model, which stays frozen."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adbench.diffusion.latent.conditioning import Conditioning
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.diffusion.latent.tokens import MaskEncoder, TokenBank
from adbench.errors import UserError


class TextConditioning(Conditioning):
    """Tokens in the place of a word of the prompt, through a published model's text encoder.

    Network, autoencoder and text encoder stay frozen; only tokens and mask encoder learn.

    Args:
        model: Stable Diffusion from a folder.
        clusters, feature_tokens, position_tokens: of the tokens.
        prompt: its ``*`` is replaced.

    Raises:
        UserError: the model has no text encoder or tokenizer, or transformers is missing.
    """

    def __init__(
        self,
        model: StableDiffusion,
        clusters: int,
        *,
        feature_tokens: int,
        position_tokens: int,
        prompt: str = "a photo of *",
    ) -> None:
        super().__init__(model)
        tokenizer, text = text_parts(model.folder)
        self._text = [text]
        table = text.get_input_embeddings().weight
        width = int(table.shape[1])
        anomaly = tokenizer("anomaly", add_special_tokens=False).input_ids
        self.bank = TokenBank(clusters, feature_tokens, width, table[anomaly].mean(0))
        self.encoder = MaskEncoder(position_tokens, width, 32)
        count = feature_tokens + position_tokens
        before = tokenizer(prompt.partition("*")[0].strip(), add_special_tokens=False).input_ids
        star = tokenizer("*", add_special_tokens=False).input_ids[:1]
        length = int(tokenizer.model_max_length)
        ids = [tokenizer.bos_token_id, *before, *star * count, tokenizer.eos_token_id]
        if len(ids) > length:
            raise UserError(
                f"model.concept.feature_tokens and position_tokens: {count} tokens and the prompt "
                f"take {len(ids)} places, the text encoder has {length}"
            )
        self.at = slice(1 + len(before), 1 + len(before) + count)
        padded = ids + [tokenizer.pad_token_id] * (length - len(ids))
        self.register_buffer("ids", torch.tensor(padded), persistent=False)

    def context(self, cluster: Tensor, mask: Tensor) -> Tensor:
        rows = torch.cat([self.bank(cluster), self.encoder(mask)], 1)
        text = self._text[0].to(rows.device)

        def replaced(module: nn.Module, inputs: Any, found: Tensor) -> Tensor:
            del module, inputs
            after = found[:, self.at.stop :]
            return torch.cat([found[:, : self.at.start], rows.to(found), after], 1)

        hook = text.get_input_embeddings().register_forward_hook(replaced)
        try:
            ids: Any = self.ids
            found: Tensor = text(ids.expand(len(rows), -1))[0]
        finally:
            hook.remove()
        return found.float()

    def output(
        self, latent: Tensor, time: Tensor, clean: Tensor, mask: Tensor, context: Tensor
    ) -> Tensor:
        del clean, mask
        rows = torch.arange(len(context), device=latent.device)
        found: Tensor = self.model.network(
            latent,
            time,
            encoder_hidden_states=context,
            cross_attention_kwargs={"prompt_rows": rows},
        ).sample
        return found.float()


def check_text_parts(folder: Path) -> None:
    """Raise UserError where a folder has no text encoder: what is needed, and what needs none."""
    missing = [name for name in ("tokenizer", "text_encoder") if not (folder / name).is_dir()]
    if missing:
        raise UserError(
            f"{folder} has no {' and no '.join(missing)}: GAA's tokens pass through the text "
            "encoder; add it, or take diffusion=scratch or diffusion=none"
        )
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "model=gaa with diffusion=sd15 needs the package transformers (pip install "
            "transformers); diffusion=none needs nothing"
        )


def text_parts(folder: Path) -> tuple[Any, Any]:
    """Return tokenizer and frozen text encoder of a folder in the published layout.

    Raises:
        UserError: as ``check_text_parts``.
    """
    check_text_parts(folder)
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    text = CLIPTextModel.from_pretrained(
        folder / "text_encoder", local_files_only=True, use_safetensors=True
    )
    return tokenizer, text.eval().requires_grad_(False)
