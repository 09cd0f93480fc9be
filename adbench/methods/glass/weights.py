"""The authors' published checkpoints: their names and ours, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from adbench.backbones import FeatureExtractor
from adbench.errors import UserError
from adbench.methods.discriminator import Head
from adbench.methods.glass.detector import GlassDetector

_PARTS = {"pre_projection": "adaptor", "discriminator": "discriminator"}
_NAMES = {
    "layers.0fc.": "",
    "body.block1.0.": "hidden.",
    "body.block1.1.": "norm.",
    "tail.0.": "output.",
}


def ours(checkpoint: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the state of a Head from the authors' ``pre_projection`` and ``discriminator``.

    Raises:
        UserError: a part or a parameter is not the published architecture's.
    """
    found: dict[str, Tensor] = {}
    for part, state in checkpoint.items():
        if part not in _PARTS:
            raise UserError(f"'{part}' is no part of a GLASS checkpoint ({', '.join(_PARTS)})")
        for name, value in state.items():
            found[f"{_PARTS[part]}.{_renamed(name)}"] = value
    if not any(name.startswith("discriminator.") for name in found):
        raise UserError("the GLASS checkpoint holds no discriminator")
    return found


def theirs(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return a Head's state under the authors' names."""
    found: dict[str, dict[str, Tensor]] = {}
    back = {new: old for old, new in _NAMES.items() if new}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "adaptor":
            found.setdefault("pre_projection", {})[f"layers.0fc.{rest}"] = value
            continue
        prefix = f"{rest.split('.')[0]}."
        found.setdefault("discriminator", {})[back[prefix] + rest.removeprefix(prefix)] = value
    return found


def _renamed(name: str) -> str:
    for old, new in _NAMES.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise UserError(f"'{name}' is no parameter of GLASS's adaptor or two-layer discriminator")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the state of a Head from a checkpoint file of the authors.

    Raises:
        UserError: the file is missing, unreadable, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}: set model.weights to an existing file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a checkpoint: {error}") from error
    return ours(checkpoint)


def published_detector(
    path: str | Path, backbone: FeatureExtractor, image_size: tuple[int, int] = (288, 288)
) -> GlassDetector:
    """Return the detector of a checkpoint of the authors, folded, in eval mode.

    Args:
        path: their ``ckpt.pth`` or ``ckpt_best_*.pth``.
        backbone: Wide ResNet-50-2, layer2 and layer3, torchvision's first weights.
        image_size: (height, width).
    """
    state = read_checkpoint(path)
    hidden, width = state["discriminator.hidden.weight"].shape
    head = Head(width, hidden, adaptor="adaptor.weight" in state)
    load_head(head, state, path)
    detector = GlassDetector(
        backbone.config, image_size, embed=width, hidden=hidden, extractor=backbone
    )
    detector.fold(head)
    return detector.eval()


def load_head(head: Head, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load ``state`` into ``head``.

    Raises:
        UserError: names or shapes differ.
    """
    try:
        head.load_state_dict(dict(state))
    except RuntimeError as error:
        raise UserError(
            f"{path} does not fit model.embed, model.hidden or model.adaptor: {error}"
        ) from error
