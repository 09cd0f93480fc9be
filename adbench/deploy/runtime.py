"""Exported files where there is no torch: ONNX Runtime and OpenVINO as engines.

``import adbench.deploy.runtime`` needs numpy, OpenCV and Pillow; onnxruntime or openvino when a
file is opened.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.data.files import check_regular, shown_path
from adbench.deploy.card import KEY, Card, read_card, rule_beside
from adbench.deploy.inspector import Inspector
from adbench.deploy.onnx_file import bin_beside, check_onnx
from adbench.errors import UserError

_XML_MOST = 256 << 20


class OnnxEngine:
    """An ONNX file in ONNX Runtime; one session, sequential, threads as told.

    Args:
        spin: whether threads keep a core busy between two calls: right for a batch run, wrong
            for a service that waits.
    """

    name = "onnxruntime"

    def __init__(
        self, path: Path, threads: int = 2, *, spin: bool = True, gpu: bool = False
    ) -> None:
        runtime = _imported("onnxruntime", "runtime")
        check_onnx(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
        providers = ["CPUExecutionProvider"]
        if gpu and "CUDAExecutionProvider" in runtime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self.session = runtime.InferenceSession(os.fspath(path), options, providers=providers)
        except Exception as error:  # its own kinds of error derive from Exception alone
            raise UserError(_unopened(path, error)) from error
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.card = read_card(text, path)
        _check_names(path, [i.name for i in self.session.get_inputs()], ["image"])
        _check_names(path, [o.name for o in self.session.get_outputs()], ["score", "map"])

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores [B] and maps [B, h, w] of images [B, h, w, 3] uint8."""
        scores, maps = self.session.run(["score", "map"], {"image": fed(images, self.card.kind)})
        return np.asarray(scores), np.asarray(maps)[:, 0]


class OpenVinoEngine:
    """An OpenVINO file, computed in float32: OpenVINO itself would take bfloat16 where it can."""

    name = "openvino"

    def __init__(self, path: Path, threads: int = 2) -> None:
        openvino = _imported("openvino", "export")
        if check_regular(path, "model").st_size > _XML_MOST:
            raise UserError(f"{shown_path(path)} is too large for an OpenVINO model")
        core = openvino.Core()
        try:
            model = core.read_model(os.fspath(path), os.fspath(bin_beside(path)))
            hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
            hints |= {"PERFORMANCE_HINT": "LATENCY"}
            self.compiled = core.compile_model(model, "CPU", hints)
        except UserError:
            raise
        except Exception as error:  # its own kinds of error derive from Exception alone
            raise UserError(_unopened(path, error)) from error
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
        self.card = read_card(text, path)
        names = [min(port.get_names(), key=len) for port in self.compiled.outputs]
        _check_names(path, names, ["score", "map"])

    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores [B] and maps [B, h, w] of images [B, h, w, 3] uint8."""
        found = self.compiled({"image": fed(images, self.card.kind)})
        return np.array(found["score"]), np.array(found["map"])[:, 0]


def fed(images: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """Return images [B, h, w, 3] uint8 as a file takes them."""
    if kind == "uint8":
        return np.ascontiguousarray(images)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)


def _imported(name: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: pip install 'adbench[{extra}]'") from error


def _unopened(path: Path, error: Exception) -> str:
    return f"{shown_path(path)} cannot be opened: {' '.join(str(error).split())[:200]}"


def _check_names(path: Path, found: list[str], wanted: list[str]) -> None:
    if sorted(found) != sorted(wanted):
        raise UserError(f"{shown_path(path)} was not exported by adbench: it has {found}")


def opened_export(
    path: Path, threads: int = 2, *, spin: bool = True
) -> OnnxEngine | OpenVinoEngine:
    """Return the engine of an exported file, by its suffix.

    Raises:
        UserError: no such file, another kind of file, or one that is damaged.
    """
    if path.suffix == ".xml":
        return OpenVinoEngine(path, threads)
    if path.suffix == ".onnx":
        return OnnxEngine(path, threads, spin=spin)
    raise UserError(f"model={shown_path(path)}: an export ends in .onnx or .xml")


def inspector_of_export(path: Path, threads: int = 2, *, spin: bool = True) -> Inspector:
    """Return the inspector of an exported file, or of a folder of ``export format=torch``.

    A threshold that was written back beside the file goes before the one inside it.

    Raises:
        UserError: as ``opened_export``, or its hash is not the one in SHA256SUMS beside it.
    """
    if path.is_dir():
        from adbench.deploy.torch_engine import inspector_of_run

        return inspector_of_run(path, "cpu", threads)
    digest = checked_sha256(path)
    engine = opened_export(path, threads, spin=spin)
    card: Card = engine.card
    rule = rule_beside(path, card.rule)
    return Inspector(engine, card.reading, rule, f"{card.model}:{card.precision}", digest)


SUMS = "SHA256SUMS"


def checked_sha256(path: Path) -> str:
    """Return a file's sha256, which must be the one that SHA256SUMS beside it names, if it does.

    Raises:
        UserError: it is another one.
    """
    check_regular(path, "model")
    digest = file_sha256(path)
    sums = path.with_name(SUMS)
    if sums.is_file() and sums.stat().st_size < 1 << 20:
        for line in sums.read_text("utf-8", "replace").splitlines():
            told, _, name = line.partition("  ")
            if name == path.name and told != digest:
                raise UserError(f"{shown_path(path)} is not the file of {SUMS}: export it again")
    return digest


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
