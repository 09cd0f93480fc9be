"""anomalib's model of the same name, measured beside ours in the same run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.deploy.settings import BenchmarkKeys

_NAMES = {"glass": "Glass", "dfr": None, "ulsad": None, "realnet": None, "glad": None}
_NAMES |= {"patchcore": "Patchcore", "padim": "Padim"}


def anomalib_beside(
    name: str,
    detector: Any,
    reading: Any,
    keys: BenchmarkKeys,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return images/s of both, measured in turns at every batch; or ``why`` there is nothing.

    anomalib's model is untrained, with the same backbone where it knows it, and the same size:
    its arithmetic does not depend on its weights.
    """
    if importlib.util.find_spec("anomalib") is None:
        return _nothing("anomalib is not installed: pip install 'adbench[baselines]'", say)
    kind = _NAMES.get(name)
    if kind is None:
        return _nothing(f"anomalib has no model {name}", say)
    from adbench.deploy.measuring import measured
    from adbench.deploy.torch_engine import TorchEngine, as_input

    backbone = str(getattr(detector.backbone, "name", "resnet18")).partition(".")[0]
    try:
        models = importlib.import_module("anomalib.models")
        made = getattr(models, kind)(backbone=backbone, pre_trained=False)
        network = getattr(made, "model", made).eval()
    except Exception as error:  # another project's constructor
        return _nothing(f"anomalib's {kind} cannot be built: {error}", say)

    @torch.inference_mode()
    def theirs(images: NDArray[np.uint8]) -> Any:
        return network(as_input(images))

    ours = TorchEngine(detector, torch.device("cpu"))
    try:
        found = {
            str(batch): measured({"adbench": ours, "anomalib": theirs}, reading.size, batch, keys)
            for batch in keys.batches
        }
    except Exception as error:  # another project's forward
        return _nothing(f"anomalib's {kind} cannot be run untrained: {error}", say)
    from importlib import metadata

    return {"anomalib": metadata.version("anomalib"), "backbone": backbone, "network": found}


def _nothing(why: str, say: Callable[[str], None]) -> dict[str, Any]:
    told = " ".join(why.split())[:300]
    say(f"peers=anomalib: {told}")
    return {"why": told}
