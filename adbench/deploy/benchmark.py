"""Images per second and latency, synchronised and warmed up, beside the bare backbone."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adbench.deploy.card import Card
from adbench.deploy.export import versions, write_onnx
from adbench.deploy.graph import Graph
from adbench.deploy.inspector import Inspector
from adbench.deploy.measuring import best_batches, end_to_end, measured
from adbench.deploy.parity import machine
from adbench.deploy.runtime import OnnxEngine, OpenVinoEngine
from adbench.deploy.settings import BenchmarkKeys
from adbench.deploy.torch_engine import TorchEngine, as_input, open_detector
from adbench.errors import UserError
from adbench.runs.environment import peak_memory

SCHEMA = 1


def benchmark(folder: Path, keys: BenchmarkKeys, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the document of one measurement of a run; see conf/benchmark.yaml.

    All engines and the bare backbone are measured in turns, round by round, so that a machine
    that slows down slows all of them.

    Raises:
        UserError: the run holds no detector.
    """
    torch.set_num_threads(keys.threads)
    device = torch.device("cuda" if keys.device == "gpu" else "cpu")
    if keys.device == "gpu" and not torch.cuda.is_available():
        raise UserError("device=gpu: torch finds no GPU here; use device=cpu")
    detector, reading, rule, sha256 = open_detector(folder, device)
    name = f"{type(detector).__name__.removesuffix('Detector').lower()}@{sha256[:12]}"
    backbone = getattr(detector, "backbone", None)
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        engines = engines_of(detector, reading, rule, keys, device, Path(temporary), absent, say)
        subjects: dict[str, Callable[[NDArray[np.uint8]], Any]] = dict(engines)
        if isinstance(backbone, nn.Module):
            subjects["bare backbone"] = bare_backbone(backbone, device)
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "model": name,
            "backbone": dict(getattr(backbone, "config", {})),
            "detector": dict(detector.config, backbone=None),
            "size": list(reading.size),
            "dtype": "float32",
            "device": str(device),
            "threads": keys.threads,
            "rounds": keys.rounds,
            "versions": versions(),
            "machine": machine(),
            "absent": absent,
            "network": {},
            "end_to_end": {},
        }
        for batch in keys.batches:
            say(f"batch {batch}: {', '.join(subjects)}")
            document["network"][str(batch)] = measured(subjects, reading.size, batch, keys)
        best = best_batches(document["network"])
        for kind, engine in engines.items():
            say(f"end to end: {kind}")
            inspector = Inspector(engine, reading, rule, name, sha256)
            document["end_to_end"][kind] = end_to_end(inspector, best[kind], keys.seconds)
        document["best_batch"] = best
    document["peak_memory"] = peak_memory()
    if keys.peers is not None:
        from adbench.deploy.peers import anomalib_beside

        document["peers"] = anomalib_beside(name.partition("@")[0], detector, reading, keys, say)
    return document


def engines_of(
    detector: Any,
    reading: Any,
    rule: Any,
    keys: BenchmarkKeys,
    device: torch.device,
    temporary: Path,
    absent: dict[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the engines that are installed; tell in ``absent`` why the others are not there."""
    found: dict[str, Any] = {}
    if "eager" in keys.engines:
        found["eager"] = TorchEngine(detector, device)
    if "compile" in keys.engines:
        compiled = compiled_engine(detector, reading.size, keys.batches[0], device)
        if isinstance(compiled, str):
            absent["compile"] = compiled
        else:
            found["compile"] = compiled
    exported = [kind for kind in keys.engines if kind in ("onnx", "openvino")]
    missing = {"onnx": "onnxruntime", "openvino": "openvino"}
    for kind in exported:
        if importlib.util.find_spec(missing[kind]) is None:
            absent[kind] = f"{missing[kind]} is not installed: pip install 'adbench[export]'"
    wanted = [kind for kind in exported if kind not in absent]
    if not wanted:
        return found
    say("tracing")
    path = temporary / "detector.onnx"
    try:
        write_onnx(Graph(detector, reading, "uint8"), path, reading, "uint8")
    except UserError as error:
        return found | _none(absent, dict.fromkeys(wanted, str(error)))
    from adbench.deploy.export import stamp

    stamp(path, Card("benchmark", "", "uint8", "fp32", reading, rule, {}))
    if "onnx" in wanted:
        found["onnx"] = OnnxEngine(path, keys.threads, gpu=device.type == "cuda")
    if "openvino" in wanted:
        import openvino

        model = openvino.convert_model(path)
        xml = temporary / "detector.xml"
        openvino.save_model(model, xml, compress_to_fp16=False)
        stamp(xml, Card("benchmark", "", "uint8", "fp32", reading, rule, {}))
        found["openvino"] = OpenVinoEngine(xml, keys.threads)
    return found


def _none(absent: dict[str, str], why: Mapping[str, str]) -> dict[str, Any]:
    absent.update(why)
    return {}


def compiled_engine(
    detector: Any, size: tuple[int, int], batch: int, device: torch.device
) -> TorchEngine | str:
    """Return the engine of a copy whose forward is compiled and has run once, or why there is none.

    torch.compile writes C++ and calls a compiler at the first pictures, not before.
    """
    if device.type != "cuda" and not shutil.which(os.environ.get("CXX", "g++")):
        return "no C++ compiler (g++, or the one that CXX names)"
    copied = copy.deepcopy(detector)
    copied.compile(dynamic=False)
    engine = TorchEngine(copied, device)
    try:
        engine(np.zeros((batch, *size, 3), np.uint8))
    except Exception as error:  # of the tracer, the compiler, or what it linked
        return " ".join(f"it cannot be compiled: {error}".split())[:300]
    return engine


def bare_backbone(backbone: nn.Module, device: torch.device) -> Callable[[NDArray[np.uint8]], Any]:
    """Return the backbone alone, cut at the layer the detector reads, eager, input included."""

    @torch.inference_mode()
    def call(images: NDArray[np.uint8]) -> Any:
        found = backbone(as_input(images).to(device))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found

    return call
