"""One run's scores for the same files, by everything that can judge them."""

from __future__ import annotations

import io

import pytest

from adbench.deploy.card import Card
from adbench.deploy.export import check_exportable, stamp, write_onnx
from adbench.deploy.graph import Graph
from adbench.deploy.inspector import Inspector
from adbench.deploy.runtime import opened_export
from adbench.deploy.torch_engine import inspector_of_run, open_detector
from adbench.deploy.wire import packed, received
from adbench.deploy.worker import Worker
from adbench.methods.base import load_detector


def scores_by_everything(folder, model, files, temporary):
    """Return name -> scores: the detector read again, the service's worker, ONNX, OpenVINO, fp16.

    One trace serves all files. fp16 is ONNX with halved weights.

    Raises:
        UserError: the method has no export; says why.
    """
    import openvino
    from onnx import load as loaded
    from onnx import save

    from adbench.deploy.quantise import halve_weights

    detector, reading, rule, sha256 = open_detector(folder)
    check_exportable(detector, model)
    found = {"reloaded": [load_detector(folder).predict(path).score.item() for path in files]}
    found["service"] = served(inspector_of_run(folder, "cpu"), files)
    onnx, xml = temporary / "detector.onnx", temporary / "detector.xml"
    write_onnx(Graph(detector, reading, "uint8"), onnx, reading, "uint8")
    openvino.save_model(openvino.convert_model(onnx), xml, compress_to_fp16=False)
    half = temporary / "half.onnx"
    halved = loaded(onnx)
    halve_weights(halved)
    save(halved, half)
    pictures = [reading.picture(file, 10**7) for file in files]
    for name, path in (("onnx", onnx), ("openvino", xml), ("fp16", half)):
        stamp(path, Card(model, sha256, "uint8", "fp32", reading, rule, {}))
        inspector = Inspector(opened_export(path, threads=1), reading, rule, model, sha256)
        found[name] = [each.score for each in inspector.judged(pictures)]
        assert served(inspector, files[:1]) == pytest.approx(found[name][:1], abs=1e-4, rel=1e-4)
    return found


def served(inspector, files):
    """Return the scores that the service's worker answers with, in the order of the files."""
    asked = [packed({"id": n, "name": f.name}, f.read_bytes()) for n, f in enumerate(files)]
    out = io.BytesIO()
    out.flush = lambda: None
    config = {"max_pixels": 10**7, "batch_size": 4}
    Worker(inspector, config, out).run(io.BytesIO(b"".join(asked)))
    out.seek(0)
    answers = {}
    while (message := received(out)) is not None:
        answers[message[0]["id"]] = message[0]["record"]["score"]
    return [answers[number] for number in range(len(files))]
