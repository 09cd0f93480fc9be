"""Builds anomalib's models without a download, with weights that our rules have loaded."""

from __future__ import annotations

import contextlib
import importlib
import unittest.mock
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from adbench.errors import UserError

CLASSES = {
    "patchcore": "Patchcore",
    "padim": "Padim",
    "stfpm": "Stfpm",
    "supersimplenet": "Supersimplenet",
}
ONE_PASS = ("patchcore", "padim")
# Nothing of theirs may touch a picture, a score or a map but the model itself.
_OFF = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)


def built(
    method: str,
    backbone: str,
    layers: Sequence[str],
    options: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
) -> Any:
    """Return anomalib's Lightning module of a method.

    Args:
        backbone, layers: timm name and layers to read.
        options: further keyword arguments of its constructor.
        weights: of the backbone, by timm's names; None leaves it untrained, to be loaded later.

    Raises:
        UserError: the package is missing, does not know an option, or would need other weights.
    """
    try:
        module = importlib.import_module(f"anomalib.models.image.{method}")
    except ImportError as error:
        raise UserError(
            f"model=anomalib/{method} needs the package anomalib ({error}): "
            "pip install 'adbench[baselines]'"
        ) from error
    with _without_downloads(weights):
        try:
            found = getattr(module, CLASSES[method])(
                backbone=backbone, layers=list(layers), **options, **_OFF
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"model.options: {error}") from error
    found.log = _unlogged
    return found


def stub_trainer(epochs: int) -> SimpleNamespace:
    """Return what ``configure_optimizers`` of their modules asks a trainer for."""
    return SimpleNamespace(max_epochs=epochs, max_steps=-1)


def _unlogged(*arguments: Any, **keys: Any) -> None:
    """Take what their modules log; history.csv has the loss."""


@contextlib.contextmanager
def _without_downloads(weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Within it, timm makes networks untrained and loads ``weights`` where trained ones are asked.

    anomalib asks timm for trained weights by name in most constructors; those of a file have no
    other way in.
    """
    import timm

    create = timm.create_model

    def created(model_name: str, pretrained: bool = False, **keys: Any) -> nn.Module:
        network: nn.Module = create(model_name, pretrained=False, **keys)
        if pretrained and weights is not None:
            _load(network, model_name, weights)
        return network

    with unittest.mock.patch.object(timm, "create_model", created):
        yield


def _load(network: nn.Module, name: str, weights: Mapping[str, Tensor]) -> None:
    try:
        absent = network.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        told = " ".join(str(error).split())[:160]
        raise UserError(f"the backbone's weights do not fit {name} ({told})") from error
    if absent:
        raise UserError(
            f"this model reads {name} beyond the layers that were loaded ({absent[0]} is "
            "missing) and would have to download it; name the layers it reads in model.layers"
        )
