"""Writes a run's detector as ONNX, OpenVINO, or plain torch files, and proves what was written."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.config.schema import settings
from adbench.data.batch import pictures
from adbench.data.datamodule import DataModule
from adbench.data.images import read_image
from adbench.data.opening import chosen_categories, read_samples
from adbench.deploy.card import KEY, Card
from adbench.deploy.decision import Rule
from adbench.deploy.graph import Graph
from adbench.deploy.parity import REFERENCE, Reference, parity
from adbench.deploy.quantise import quantised, rule_again
from adbench.deploy.reading import Reading, shrunk
from adbench.deploy.runtime import SUMS, file_sha256, opened_export
from adbench.deploy.settings import ExportKeys
from adbench.deploy.torch_engine import TorchEngine, open_detector
from adbench.errors import UserError
from adbench.methods.base import Detector, save_detector
from adbench.metrics.image import image_metrics
from adbench.runs.files import folder_beside, write_json, write_text
from adbench.training.data import build_datamodule
from adbench.training.threshold import FILE

_LARGEST = 16384  # side of a picture, pixels
_MAPS = 8  # maps kept in the reference
_ODD = (301, 177)  # height and width that no network was trained at
PARITY = "parity.json"


def export(
    folder: Path, config: Mapping[str, Any], keys: ExportKeys, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Write the export into ``out``, replacing what was there; return parity.json.

    The detector is copied first; the run is only read.

    Raises:
        UserError: the method cannot be exported, or the run's pictures are gone.
    """
    torch.set_num_threads(keys.threads)
    detector, reading, rule, sha256 = open_detector(folder)
    name = f"{config['model']['name']}@{sha256[:12]}"
    check_exportable(detector, str(config["model"]["name"]))
    data = _data(config)
    with folder_beside(out) as made:
        graph = Graph(detector, reading, keys.input)
        reference, whole = references(detector, graph, data, keys.images)
        if keys.format == "torch":
            return _torch_files(detector, reading, folder, made, reference)
        card = Card(name, sha256, keys.input, keys.precision, reading, rule, versions())
        path = made / ("detector.onnx" if keys.format == "onnx" else "detector.xml")
        say(f"tracing {name}")
        with tempfile.TemporaryDirectory() as temporary:
            traced = Path(temporary) / "traced.onnx"
            write_onnx(graph, traced, reading, keys.input)
            if keys.precision == "int8":
                quantised(traced, _normals(data), keys.input)
            _write_format(traced, path, card, keys)
        engine = opened_export(path, keys.threads)
        if keys.precision == "int8":
            if data.val_samples:
                plain = TorchEngine(detector, torch.device("cpu"))
                again = rule_again(engine, plain, list(_normals(data)), rule, _unseen(config))
                card = replace(card, rule=again)
            stamp(path, card)
            engine = opened_export(path, keys.threads)
        say(f"comparing {len(whole.labels)} test pictures with the detector")
        found = {
            "schema": 1,
            **parity(engine, reference, rule, keys.precision),
            **whole.compared(engine, rule, card.rule),
            "detector": sha256,
            "precision": keys.precision,
            "versions": card.versions,
        }
        reference.write(made / REFERENCE)
        write_json(made / PARITY, found)
        write_sums(made)
    return found


def check_exportable(detector: Detector, name: str) -> None:
    """Refuse what one pass through a graph cannot say.

    Raises:
        UserError: says why.
    """
    why = getattr(detector, "not_exportable", None)
    if name == "glad" and why is None:
        why = (
            "it denoises in as many steps as each picture asks for, with a latent diffusion model "
            "of gigabytes; predict and serve run it in torch"
        )
    if why is not None:
        raise UserError(f"model={name} has no export: {why}")


def write_onnx(graph: Graph, path: Path, reading: Reading, kind: str) -> None:
    """Trace a graph into one ONNX file; batch, height and width stay open.

    Raises:
        UserError: the detector cannot be traced; names where.
    """
    height, width = reading.size
    shape = (2, height, width, 3) if kind == "uint8" else (2, 3, height, width)
    example = torch.zeros(shape, dtype=torch.uint8 if kind == "uint8" else torch.float32)
    side = torch.export.Dim
    tall, wide = (1, 2) if kind == "uint8" else (2, 3)
    sides = {
        0: side("batch", min=1, max=4096),
        tall: side("height", min=8, max=_LARGEST),
        wide: side("width", min=8, max=_LARGEST),
    }
    with _Quiet(), torch.no_grad():
        graph(example)  # fills caches of matrices with tensors that hold values
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                dynamic_shapes=(sides,),
                input_names=["image"],
                output_names=["score", "map"],
                verbose=False,
            )
        except Exception as error:  # the exporter wraps whatever happens below it
            told = " ".join(str(error.__cause__ or error).split())[:300]
            raise UserError(f"the detector cannot be traced: {told}") from error
        assert program is not None
        traced = program.model.graph.inputs[0].shape
        assert traced is not None
        fixed = [traced[axis] for axis in sides if isinstance(traced[axis], int)]
        if fixed:  # the exporter gives up quietly where the code counts pictures
            raise UserError(f"the detector cannot be traced: it fixes batch or sides at {fixed}")
        program.save(path, external_data=False)


class _Quiet:
    """Silences what the exporter tells about itself."""

    def __enter__(self) -> None:
        self._filters = warnings.catch_warnings()
        self._filters.__enter__()
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
        self._filters.__exit__(None, None, None)


def _write_format(traced: Path, path: Path, card: Card, keys: ExportKeys) -> None:
    """Write the traced ONNX file as what was asked for."""
    if keys.format == "onnx":
        import onnx

        model = onnx.load(traced)
        if keys.precision == "fp16":
            from adbench.deploy.quantise import halve_weights

            halve_weights(model)
        onnx.save(model, path)
        stamp(path, card)
        return
    import openvino

    model = openvino.convert_model(traced)
    model.set_rt_info(card.text(), [KEY])
    # OpenVINO would store half precision unless told otherwise
    openvino.save_model(model, path, compress_to_fp16=keys.precision == "fp16")


def stamp(path: Path, card: Card) -> None:
    """Put the card into a written file."""
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(path)
        onnx.helper.set_model_props(model, {KEY: card.text()})
        onnx.save(model, path)
        return
    import openvino

    model = openvino.Core().read_model(path)
    model.set_rt_info(card.text(), [KEY])
    with tempfile.TemporaryDirectory(dir=path.parent) as beside:
        made = Path(beside) / path.name
        openvino.save_model(model, made, compress_to_fp16=False)
        del model  # it maps the weights that are replaced
        shutil.move(made.with_suffix(".bin"), path.with_suffix(".bin"))
        shutil.move(made, path)


def _torch_files(
    detector: Detector, reading: Reading, run: Path, made: Path, reference: Reference
) -> dict[str, Any]:
    """Write detector, card and threshold as plain data: ``predict model=FOLDER`` reads them."""
    save_detector(detector, made, reading.record())
    if (run / FILE).exists():
        shutil.copyfile(run / FILE, made / FILE)
    again, _, rule, sha256 = open_detector(made)
    graph = Graph(again, reading, "uint8")
    found = parity(GraphEngine(graph), reference, rule, "fp32")
    document = {"schema": 1, **found, "detector": sha256, "precision": "fp32"}
    document["versions"] = versions()
    reference.write(made / REFERENCE)
    write_json(made / PARITY, document)
    write_sums(made)
    return document


class GraphEngine:
    """A graph in torch, for pictures of every size."""

    name = "torch"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores [B] and maps [B, H, W] of images [B, H, W, 3] uint8."""
        given = torch.from_numpy(np.ascontiguousarray(images))
        if self.graph.kind == "float":
            given = given.permute(0, 3, 1, 2).to(torch.float32) / 255
        scores, maps = self.graph(given)
        return scores.numpy(), maps[:, 0].numpy()


class Whole:
    """All test pictures of the run, with the detector's scores."""

    def __init__(self, data: DataModule, scores: NDArray[np.float32]) -> None:
        self.data, self.scores = data, scores
        self.labels = np.array([sample.label for sample in data.test_samples])

    def compared(self, engine: Any, before: Rule, after: Rule) -> dict[str, Any]:
        """Return flips of decisions and the change of AUROC over all of them."""
        parts = [engine(np.stack(pictures(b.image)))[0] for b in self.data.test_batches()]
        found = np.concatenate(parts)
        known = self.labels >= 0
        values = [
            image_metrics(s[known], self.labels[known])["auroc"] for s in (self.scores, found)
        ]
        told: dict[str, Any] = {"auroc": {"detector": values[0], "export": values[1]}}
        one, other = before.stored.threshold.value, after.stored.threshold.value
        if one is not None and other is not None:
            flips = (self.scores > one) != (found > other)
            told["decisions"] = {
                "pictures": len(found),
                "flips": int(flips.sum()),
                "threshold": one,
                "threshold_of_export": other,
            }
        return told


def references(
    detector: Detector, graph: Graph, data: DataModule, count: int
) -> tuple[Reference, Whole]:
    """Return the reference, from evenly spaced test pictures, and the scores of all of them.

    At the working size the detector itself answers, elsewhere the graph in torch.
    """
    engine, odd = TorchEngine(detector, torch.device("cpu")), GraphEngine(graph)
    total = len(data.test_samples)
    chosen = set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist())
    kept: list[NDArray[np.uint8]] = []
    scores: list[NDArray[np.float32]] = []
    maps: list[NDArray[np.float32]] = []
    at = 0
    for batch in data.test_batches():
        images = np.stack(pictures(batch.image))
        found, values = engine(images)
        scores.append(found)
        for row in range(len(images)):
            if at in chosen:
                kept.append(images[row])
                maps += [values[row]] if len(maps) < _MAPS else []
            at += 1
    all_scores = np.concatenate(scores)
    height, width = graph.reading.size
    given = {
        "test": np.stack(kept),
        "odd": _odd_picture(data)[None],
        "black": np.zeros((1, height, width, 3), np.uint8),
        "white": np.full((1, height, width, 3), 255, np.uint8),
    }
    answers = {name: odd(given[name]) for name in ("odd", "black", "white")}
    answers["test"] = all_scores[sorted(chosen)], np.stack(maps)
    reference = Reference(
        given, {n: a[0] for n, a in answers.items()}, {n: a[1] for n, a in answers.items()}
    )
    return reference, Whole(data, all_scores)


def _odd_picture(data: DataModule) -> NDArray[np.uint8]:
    """Return the first test picture at an odd size, larger than none of its own detail."""
    import cv2

    pixels = shrunk(read_image(data.test_samples[0].image, data.bits))
    return np.asarray(cv2.resize(pixels, _ODD[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _data(config: Mapping[str, Any]) -> DataModule:
    """Return the run's own pictures: parity is measured on what it was tested on.

    Raises:
        UserError: they are no longer there.
    """
    keys = settings(config)
    try:
        samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
    except UserError as error:
        raise UserError(f"{error}; an export is compared on the run's own pictures") from error
    return build_datamodule(keys, samples)


def _normals(data: DataModule) -> Iterator[NDArray[np.uint8]]:
    """Yield batches of held-out normals: what quantisation may look at."""
    batches = data.val_batches() if data.val_samples else data.train_batches()
    for batch in batches:
        yield np.stack(pictures(batch.image))


def _unseen(config: Mapping[str, Any]) -> bool:
    """Whether the normals that are called held out were kept from the detector of the run."""
    keys = settings(config)
    return not (keys.threshold.folds or keys.train.refit)


def versions() -> dict[str, str]:
    """Return what an export depends on, by version."""
    found = {}
    for name in ("adbench", "torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all files of a folder, as sha256sum reads it."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    write_text(folder / SUMS, "".join(f"{file_sha256(path)}  {path.name}\n" for path in files))
