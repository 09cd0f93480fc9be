"""Map between checkpoints in OpenAI's guided-diffusion format and AdmNetwork's names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adbench.backbones.weights import read_tensors
from adbench.diffusion.adm import AdmNetwork, AdmShape
from adbench.errors import UserError

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_FIXED = {
    "time_embed.0": "unet.time_embedding.linear_1",
    "time_embed.2": "unet.time_embedding.linear_2",
    "label_emb": "label_embedding",
    "input_blocks.0.0": "unet.conv_in",
    "out.0": "unet.conv_norm_out",
    "out.2": "unet.conv_out",
}


def module_names(shape: AdmShape) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return OpenAI -> our names of single layers, of residual blocks and of attentions."""
    residual = {
        "middle_block.0": "unet.mid_block.resnets.0",
        "middle_block.2": "unet.mid_block.resnets.1",
    }
    attention = {"middle_block.1": "unet.mid_block.attentions.0"}
    levels, per = len(shape.multipliers), shape.blocks + 1
    for i in range(levels):
        down, up = f"unet.down_blocks.{i}", f"unet.up_blocks.{levels - 1 - i}"
        first, first_up = i * per, (levels - 1 - i) * per
        attends = 2**i in shape.attention
        for j in range(shape.blocks):
            residual[f"input_blocks.{1 + first + j}.0"] = f"{down}.resnets.{j}"
            if attends:
                attention[f"input_blocks.{1 + first + j}.1"] = f"{down}.attentions.{j}"
        for j in range(per):
            residual[f"output_blocks.{first_up + j}.0"] = f"{up}.resnets.{j}"
            if attends:
                attention[f"output_blocks.{first_up + j}.1"] = f"{up}.attentions.{j}"
        if i < levels - 1:
            residual[f"input_blocks.{first + per}.0"] = f"{down}.downsamplers.0"
        if i > 0:
            last = first_up + shape.blocks
            residual[f"output_blocks.{last}.{2 if attends else 1}"] = f"{up}.upsamplers.0"
    return dict(_FIXED), residual, attention


def from_openai(state: Mapping[str, Tensor], shape: AdmShape) -> dict[str, Tensor]:
    """Return ``state`` under the names of an AdmNetwork of ``shape``.

    Raises:
        UserError: a name of ``state`` has no place in a network of that shape.
    """
    fixed, residual, attention = module_names(shape)
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        owner, _, kind = name.rpartition(".")
        if owner in fixed:
            found[f"{fixed[owner]}.{kind}"] = value
            continue
        parts = owner.split(".")
        prefix, inner = ".".join(parts[:3]), ".".join(parts[3:])
        if parts[0] == "middle_block":
            prefix, inner = ".".join(parts[:2]), ".".join(parts[2:])
        if prefix in residual and inner in _RESIDUAL:
            found[f"{residual[prefix]}.{_RESIDUAL[inner]}.{kind}"] = value
        elif prefix in attention:
            found |= _attention(inner, kind, value, attention[prefix], shape.head)
        else:
            raise UserError(f"weights: '{name}' has no place in a network of this shape")
    return found


def _attention(inner: str, kind: str, value: Tensor, ours: str, head: int) -> dict[str, Tensor]:
    if inner == "norm":
        return {f"{ours}.group_norm.{kind}": value}
    flat = value.squeeze(-1) if kind == "weight" else value
    if inner == "proj_out":
        return {f"{ours}.to_out.0.{kind}": flat}
    channels = len(flat) // 3
    heads = flat.reshape(channels // head, 3, head, *flat.shape[1:])
    return {
        f"{ours}.to_{letter}.{kind}": heads[:, i].reshape(channels, *flat.shape[1:]).contiguous()
        for i, letter in enumerate("qkv")
    }


def to_openai(network: AdmNetwork) -> dict[str, Tensor]:
    """Return the weights of ``network`` in OpenAI's format."""
    state = network.state_dict()
    fixed, residual, attention = module_names(network.shape)
    found: dict[str, Tensor] = {}
    for theirs, ours in fixed.items():
        found |= _copied(state, theirs, ours)
    for theirs, ours in residual.items():
        for inner, own in _RESIDUAL.items():
            found |= _copied(state, f"{theirs}.{inner}", f"{ours}.{own}")
    for theirs, ours in attention.items():
        found |= _copied(state, f"{theirs}.norm", f"{ours}.group_norm")
        found |= _copied(state, f"{theirs}.proj_out", f"{ours}.to_out.0")
        found[f"{theirs}.proj_out.weight"] = found[f"{theirs}.proj_out.weight"][..., None]
        for kind in ("weight", "bias"):
            parts = [state[f"{ours}.to_{letter}.{kind}"] for letter in "qkv"]
            split = [p.reshape(-1, network.shape.head, *p.shape[1:]) for p in parts]
            joined = torch.stack(split, 1).reshape(3 * len(parts[0]), *parts[0].shape[1:])
            found[f"{theirs}.qkv.{kind}"] = joined[..., None] if kind == "weight" else joined
    return found


def _copied(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    kinds = [kind for kind in ("weight", "bias") if f"{ours}.{kind}" in state]
    return {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in kinds}


def load_openai(network: AdmNetwork, path: Path) -> None:
    """Load a checkpoint in OpenAI's format, all of it but a label embedding of other classes.

    Args:
        path: a torch file (read with ``weights_only=True``) or safetensors.

    Raises:
        UserError: the file is missing, or fits another shape of network.
    """
    try:
        state = from_openai(read_tensors(path), network.shape)
    except (RuntimeError, IndexError) as error:  # tensors that cannot be divided into heads
        raise UserError(f"weights: {path} fits another network ({error})") from error
    own = network.state_dict()
    label = "label_embedding.weight"
    if label not in state or state[label].shape != own[label].shape:
        state[label] = own[label]
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        raise UserError(f"weights: {path} fits another network (first misfit: {wrong[0]})")
    network.load_state_dict(state)
