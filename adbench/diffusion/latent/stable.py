"""``diffusion=sd15``: Stable Diffusion from a folder in the published layout, or from the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adbench.backbones.weights import read_tensors, sha256
from adbench.config.typed import from_mapping
from adbench.diffusion.latent.published import PublishedDiffusion
from adbench.diffusion.latent.settings import StableDiffusionKeys
from adbench.errors import UserError

_NETWORKS = ("unet", "vae")
_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
_TEXT_WEIGHTS = ("model.safetensors", "model.fp16.safetensors")
_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json")
_RECORDED = 1 << 30  # bytes up to which a file's hash is worth its time


class StableDiffusion(PublishedDiffusion):
    """Stable Diffusion v1 with its published weights; the keys are those of conf/diffusion/sd15.

    Raises:
        UserError: the folder is missing or incomplete (every missing file is named), its parts
            do not belong together, or there is no way to prompt embeddings.
    """

    def __init__(self, **keys: Any) -> None:
        self_keys = from_mapping(StableDiffusionKeys, keys, "diffusion")
        folder = model_folder(self_keys)
        check_folder(folder, self_keys)
        vae_folder = Path(self_keys.vae).expanduser() if self_keys.vae else folder / "vae"
        super().__init__(
            unet=_config(folder / "unet" / "config.json"),
            vae=_config(vae_folder / "config.json"),
            scheduler=_config(folder / "scheduler" / "scheduler_config.json"),
            guidance=self_keys.guidance,
            precision=self_keys.precision,
        )
        self.keys, self.folder = self_keys, folder
        self.record = {
            "name": "stable diffusion",
            "source": f"folder {folder}",
            "files": [
                _loaded(self.network, folder / "unet"),
                _loaded(self.vae, vae_folder),
            ],
        }

    def set_classes(self, classes: Sequence[str], generator: torch.Generator) -> None:
        """Embed one prompt for each category, the same in training and in test."""
        del generator
        self.classes = list(classes)
        device = self.prompts.device
        self.set_prompts(embedded_prompts(self.keys, self.folder, classes).to(device))


def model_folder(keys: StableDiffusionKeys) -> Path:
    """Return the local folder: the one given, or the hub's copy.

    Raises:
        UserError: it does not exist, and the hub gives none.
    """
    if keys.path is not None:
        folder = Path(keys.path).expanduser()
        if not folder.is_dir():
            raise UserError(f"diffusion.path={folder}: no such folder")
        return folder
    import huggingface_hub as hub

    wanted = ["*.json", "*.txt", *(f"*/{name}" for name in (_WEIGHTS[0], _TEXT_WEIGHTS[0]))]
    for offline in (True, False):
        try:
            found = hub.snapshot_download(
                keys.hub,
                revision=keys.revision,
                allow_patterns=wanted,
                local_files_only=offline,
            )
            return Path(found)
        except Exception as error:  # network, proxy and hub errors share no base class
            reason = type(error).__name__
    raise UserError(
        f"{keys.hub} is neither in the hub cache nor does the hub answer ({reason}). Three ways "
        "out: diffusion.path=FOLDER in diffusers' layout; a network connection, once; "
        "diffusion=scratch, which needs no weights"
    )


def check_folder(folder: Path, keys: StableDiffusionKeys) -> None:
    """Refuse a folder that lacks something.

    Raises:
        UserError: all missing files are named, and what each is for.
    """
    missing = _missing(folder, keys)
    if missing:
        raise UserError(f"{folder} is no complete diffusers model: missing {', '.join(missing)}")
    if keys.embeddings is None and importlib.util.find_spec("transformers") is None:
        raise UserError(
            "prompts need the package transformers (pip install transformers), or "
            "diffusion.embeddings=FILE, a safetensors file with prompt and negative [tokens, width]"
        )
    if keys.embeddings is not None and not Path(keys.embeddings).expanduser().is_file():
        raise UserError(f"diffusion.embeddings={keys.embeddings}: no such file")


def _missing(folder: Path, keys: StableDiffusionKeys) -> list[str]:
    vae = Path(keys.vae).expanduser() if keys.vae else folder / "vae"
    found = []
    for place, shown in ((folder / "unet", "unet"), (vae, "vae" if not keys.vae else str(vae))):
        if not (place / "config.json").is_file():
            found.append(f"{shown}/config.json")
        if not any((place / name).is_file() for name in _WEIGHTS):
            found.append(f"{shown}/{_WEIGHTS[0]}")
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        found.append("scheduler/scheduler_config.json")
    if keys.embeddings is None:
        text = folder / "text_encoder"
        if not (text / "config.json").is_file():
            found.append("text_encoder/config.json")
        if not any((text / name).is_file() for name in _TEXT_WEIGHTS):
            found.append(f"text_encoder/{_TEXT_WEIGHTS[0]}")
        found += [f"tokenizer/{n}" for n in _TOKENIZER if not (folder / "tokenizer" / n).is_file()]
    return found


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no configuration: a JSON object is expected")
    return found


def _loaded(network: nn.Module, folder: Path) -> dict[str, Any]:
    """Load a part's weights; return file and hash for run.json.

    Raises:
        UserError: tensors are missing or have other shapes.
    """
    path = next(folder / name for name in _WEIGHTS if (folder / name).is_file())
    tensors, needed = read_tensors(path), network.state_dict()
    missing = [name for name in needed if name not in tensors]
    wrong = [n for n in needed if n in tensors and tensors[n].shape != needed[n].shape]
    if missing or wrong:
        told = f"lacks {missing[0]}" if missing else f"has {wrong[0]} in another shape"
        raise UserError(f"{path} {told}: it does not belong to {folder / 'config.json'}")
    network.load_state_dict({name: tensors[name] for name in needed})
    small = path.stat().st_size <= _RECORDED
    return {"path": str(path), "sha256": sha256(path) if small else None}


def embedded_prompts(keys: StableDiffusionKeys, folder: Path, categories: Sequence[str]) -> Tensor:
    """Return [1 + categories, tokens, width]: the unguided branch's first.

    Raises:
        UserError: the file of embeddings lacks one.
    """
    if keys.embeddings is not None:
        return _stored_prompts(Path(keys.embeddings).expanduser(), categories)
    texts = [keys.negative, *(keys.prompt.replace("{category}", name) for name in categories)]
    return _encoded(texts, folder)


def _stored_prompts(path: Path, categories: Sequence[str]) -> Tensor:
    stored = read_tensors(path)
    rows = []
    for names in (("negative",), *((f"prompt.{name}", "prompt") for name in categories)):
        name = next((name for name in names if name in stored), None)
        if name is None:
            there = ", ".join(sorted(stored))
            raise UserError(f"{path} holds no embedding '{names[0]}' (there: {there})")
        rows.append(stored[name].squeeze(0))
    if len({row.shape for row in rows}) > 1 or rows[0].dim() != 2:
        raise UserError(f"{path}: all embeddings must have one shape [tokens, width]")
    return torch.stack(rows)


@torch.no_grad()
def _encoded(texts: Sequence[str], folder: Path) -> Tensor:
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(
        folder / "text_encoder", local_files_only=True, use_safetensors=True
    ).eval()
    told = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    found: Tensor = encoder(told.input_ids)[0]
    return found.float()
