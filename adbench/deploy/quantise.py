"""Smaller files: weights in half precision, or the backbone's convolutions in 8 bits."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.deploy.decision import Rule
from adbench.deploy.runtime import fed
from adbench.errors import UserError

_FEWEST = 1024  # values of a tensor that is worth storing in half precision
_SCOPES = "pkg.torch.onnx.name_scopes"
_BACKBONE = "detector.backbone"


def halve_weights(model: Any) -> None:
    """Store the large tensors of an ONNX model in float16, cast back where they are used.

    Computing stays in float32, so that no sum of squares overflows. Values beyond float16 stay.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _FEWEST or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        name = f"{tensor.name}.half"
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
        cast = helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT)
        casts.append(cast)
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])


def quantised(path: Path, normals: Iterable[NDArray[np.uint8]], kind: str) -> None:
    """Quantise the backbone's convolutions of an ONNX file in place, statically, to int8.

    What compares features (distances, projections, normalised maps) stays in float32: there a
    rounding of features decides.

    Args:
        normals: batches [B, h, w, 3] that the ranges are taken from.

    Raises:
        UserError: there is no convolution below the backbone.
    """
    import logging

    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    model = onnx.load(path)
    names = [node.name for node in model.graph.node if _is_backbone_convolution(node)]
    if not names:
        raise UserError("precision=int8: the backbone has no convolution to quantise; use fp16")

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.given = iter(normals)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.given, None)
            return None if images is None else {"image": fed(images, kind)}

    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "quantised.onnx")
        quantize_static(
            os.fspath(path),
            made,
            Pictures(),
            nodes_to_quantize=names,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        onnx.save(onnx.load(made), path)


def _is_backbone_convolution(node: Any) -> bool:
    scopes = next((item.value for item in node.metadata_props if item.key == _SCOPES), "")
    return node.op_type == "Conv" and _BACKBONE in scopes


def rule_again(
    engine: Any, plain: Any, images: Sequence[NDArray[np.uint8]], rule: Rule, unseen: bool
) -> Rule:
    """Return the rule of a quantised file, at the false-alarm rate of the run's.

    Held-out normals give it anew. Where the detector was trained on all normals (cross-fitting,
    refit), their scores are too low for that: the run's threshold moves by what quantising changed
    at their median.

    Args:
        engine, plain: score batches quantised, and as the run does.
        images: batches of normals, [B, H, W, 3] each.
        unseen: whether the run's detector never saw them.
    """
    rate = rule.stored.threshold.expected_false_alarm_rate
    if rate is None:
        return rule
    scores = np.concatenate([engine(each)[0] for each in images]).astype(np.float64)
    told = f"{len(scores)} held-out normal images, quantised"
    if not unseen:
        before = np.concatenate([plain(each)[0] for each in images])
        moved = float(np.median(scores - before))
        told = f"{rule.stored.threshold.source}; moved by {moved:.3g} for quantising"
        scores = rule.stored.scores + moved
    return Rule.of(replace(rule.stored, scores=scores).at(rate, told))
