"""Where weights come from, and the rule that none are ever taken silently from elsewhere."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adbench.backbones.extractor import BUNDLED, FeatureExtractor
from adbench.backbones.files import regular_file, sha256
from adbench.errors import UserError


class WeightsAbsentError(UserError):
    """The hub was asked for weights and did not answer."""


BUNDLED_FILE = "bundled.safetensors"
RANDOM = "random"
_PREFIXES = ("module.", "model.", "backbone.", "network.")


def build_backbone(
    name: str,
    layers: Sequence[str | int],
    weights: str | Path | None = None,
    exposure: float | None = None,
    padding: str = "zeros",
) -> FeatureExtractor:
    """Return a frozen extractor with weights.

    Args:
        name: ``bundled`` or a timm name with its tag.
        layers: what is read; the network ends after the last.
        weights: a path (safetensors, or a torch checkpoint of plain tensors), ``random``, or
            None: the file in the package for ``bundled``, else the local hub cache, else the hub.
        exposure: mean grey that every image is brought to; None leaves it.
        padding: ``zeros`` or ``reflect``: what convolutions see beyond the border.

    Raises:
        UserError: no such network, layer or file; a file that lacks tensors of layers that are
            read; or weights that neither the cache nor the hub gives.
    """
    extractor = FeatureExtractor(name, layers, exposure=exposure, padding=padding)
    if weights == RANDOM:
        extractor.record = {"name": name, "source": "random", "path": None, "sha256": None}
        return extractor
    if weights is not None:
        path = regular_file(weights, "backbone.weights")
        return _with_file(extractor, path, source=f"file {path}")
    if name == BUNDLED:
        path = Path(str(resources.files("adbench.backbones") / BUNDLED_FILE))
        return _with_file(extractor, path, source="bundled with adbench")
    return _from_hub(extractor)


def _with_file(extractor: FeatureExtractor, path: Path, source: str) -> FeatureExtractor:
    load_covering(extractor.network, read_tensors(path), str(path))
    extractor.record = {
        "name": extractor.name,
        "source": source,
        "path": str(path),
        "sha256": sha256(path),
    }
    return extractor


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or a torch checkpoint, float32.

    Nothing in the file is run: pickled objects other than plain tensors are refused.

    Raises:
        UserError: the file is missing, broken, or holds more than plain tensors.
    """
    path = regular_file(path, "weights")
    try:
        found = _loaded(path)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} cannot be read as weights: it is broken, or holds objects whose loading "
            "would run code; store its state_dict alone"
        ) from error
    except Exception as error:  # readers raise what they like on a broken file
        why = str(error).partition("\n")[0][:200]
        raise UserError(f"{path} cannot be read as weights: {why}") from error
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    plain = found.items() if isinstance(found, Mapping) else ()
    tensors = {str(name): value for name, value in plain if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    return {name: v.float() if v.is_floating_point() else v for name, v in tensors.items()}


def _loaded(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on formats it is about to give up
        return torch.load(path, map_location="cpu", weights_only=True)


def load_covering(network: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load ``tensors`` into ``network``; they may be more than it needs, never less.

    Raises:
        UserError: tensors are missing, or have another shape.
    """
    needed = network.state_dict()
    named = _renamed(tensors, needed)
    counters = {name for name in needed if name.endswith("num_batches_tracked")}
    missing = [name for name in needed if name not in named and name not in counters]
    if missing:
        told = ", ".join(missing[:4]) + (
            f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        )
        raise UserError(f"{origin} lacks {told}: it does not cover the layers that are read")
    wrong = [n for n in needed if n in named and named[n].shape != needed[n].shape]
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{origin}: {name} has shape {tuple(named[name].shape)}, the network needs "
            f"{tuple(needed[name].shape)}: the file belongs to another network"
        )
    state = {n: named.get(n, needed[n]) for n in needed}
    broken = [n for n in needed if not state[n].isfinite().all()]
    if broken:
        raise UserError(f"{origin}: {broken[0]} has values that are not finite: the file is broken")
    network.load_state_dict(state)


def _renamed(tensors: Mapping[str, Tensor], needed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the network's names: prefixes of wrappers come and go."""
    found = {}
    plain = {_stripped(name): value for name, value in tensors.items()}
    for name in needed:
        for candidate in (name, _stripped(name), _stripped(name).replace("_", ".", 1)):
            if candidate in tensors:
                found[name] = tensors[candidate]
                break
            if candidate in plain:
                found[name] = plain[candidate]
                break
    return found


def _stripped(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _from_hub(extractor: FeatureExtractor) -> FeatureExtractor:
    import timm

    name = extractor.name
    if "." not in name:
        raise UserError(
            f"backbone {name} has no tag: pin one, e.g. {name}.tv_in1k (the untagged name means "
            "whatever timm's default weights are today)"
        )
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        raise UserError(f"timm knows no weights under the tag of {name}; set backbone.weights=PATH")
    path = _hub_file(config.hf_hub_id, name)
    load_covering(extractor.network, read_tensors(path), f"{config.hf_hub_id} ({path.name})")
    extractor.record = {
        "name": name,
        "source": f"hub {config.hf_hub_id}",
        "path": str(path),
        "sha256": sha256(path),
    }
    return extractor


def _hub_file(repository: str, name: str) -> Path:
    """Return the weights' file in the local hub cache, fetched when the hub answers."""
    import huggingface_hub as hub

    repository = repository if "/" in repository else f"timm/{name}"
    files = ("model.safetensors", "pytorch_model.bin")
    for file in files:
        cached = hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    try:
        _reach(hub.constants.ENDPOINT)
        return Path(hub.hf_hub_download(repository, files[0]))
    except Exception as error:  # network, proxy and hub errors share no base class
        raise WeightsAbsentError(
            f"weights of {name} are neither in the hub cache nor does the hub answer "
            f"({type(error).__name__}). Ways out: backbone=bundled (ships with adbench); "
            "backbone.weights=PATH to a file; a network connection, once; "
            "backbone.weights=random (marked in every table)"
        ) from error


def _reach(endpoint: str) -> None:
    """Raise OSError at once where the hub cannot be reached: its own client retries for long."""
    import socket
    from urllib.parse import urlsplit
    from urllib.request import getproxies

    place = urlsplit(endpoint)
    if not getproxies() and place.hostname:
        socket.create_connection((place.hostname, place.port or 443), timeout=5).close()
