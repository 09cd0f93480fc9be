"""anomalib's model of the same name, measured beside ours in the same run."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.deploy.settings import BenchmarkKeys

_NAMES = {"glass": "Glass", "patchcore": "Patchcore", "padim": "Padim"}


def anomalib_beside(
    name: str,
    detector: Any,
    reading: Any,
    keys: BenchmarkKeys,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Return images/s of both, measured in turns at every batch; or ``why`` there is nothing.

    anomalib's model is untrained, with the same backbone, layers, size and widths where it knows
    them, and where widths differ from its own defaults also with these: its arithmetic does not
    depend on its weights. Its normalisation of pictures is left out, in its favour.
    """
    if importlib.util.find_spec("anomalib") is None:
        return _nothing("anomalib is not installed: pip install 'adbench[baselines]'", say)
    kind = _NAMES.get(name)
    if kind is None:
        return _nothing(f"anomalib has no model {name}", say)
    from importlib import metadata

    from adbench.deploy.measuring import measured
    from adbench.deploy.torch_engine import TorchEngine

    backbone = str(getattr(detector.backbone, "name", "resnet18")).partition(".")[0]
    subjects: dict[str, Any] = {"adbench": TorchEngine(detector, torch.device("cpu"))}
    try:
        models = importlib.import_module("anomalib.models")
        for label, given in _constructions(name, detector, reading).items():
            made = getattr(models, kind)(backbone=backbone, pre_trained=False, **given)
            subjects[label] = _called(getattr(made, "model", made).eval())
        found = {
            str(batch): measured(subjects, reading.size, batch, keys, clock)
            for batch in keys.batches
        }
    except Exception as error:  # another project's constructor and forward
        return _nothing(f"anomalib's {kind} cannot be run untrained: {error}", say)
    return {
        "anomalib": metadata.version("anomalib"),
        "backbone": backbone,
        "widths": _widths(detector) if name == "glass" else {},
        "network": found,
    }


def _widths(detector: Any) -> dict[str, Any]:
    """Return GLASS's widths by anomalib's names."""
    own, columns = detector.config, int(detector.aggregation.width)
    return {
        "pretrain_embed_dim": columns,
        "target_embed_dim": columns,
        "discriminator_hidden": int(own["hidden"]),
        "patchsize": int(own["patch"]),
    }


def _constructions(name: str, detector: Any, reading: Any) -> dict[str, dict[str, Any]]:
    """Return label -> what anomalib's constructor is given beside the backbone."""
    layers = {"layers": list(detector.config["backbone"]["layers"])}
    if name != "glass":
        return {"anomalib": layers}
    common = {**layers, "input_shape": tuple(reading.size)}
    return {"anomalib": {**common, **_widths(detector)}, "anomalib, its widths": common}


def _called(network: Any) -> Callable[[NDArray[np.uint8]], Any]:
    from adbench.deploy.torch_engine import as_input

    @torch.inference_mode()
    def call(images: NDArray[np.uint8]) -> Any:
        return network(as_input(images))

    return call


def _nothing(why: str, say: Callable[[str], None]) -> dict[str, Any]:
    told = " ".join(why.split())[:300]
    say(f"peers=anomalib: {told}")
    return {"why": told}
