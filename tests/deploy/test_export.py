"""export: what is written says what the detector says, and opening a file is safe."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from adbench.data.fit import fitted, unfitted
from adbench.deploy.decision import Rule
from adbench.deploy.graph import Graph, into_working, out_of_working
from adbench.deploy.onnx_file import check_onnx
from adbench.deploy.quantise import rule_again
from adbench.deploy.reading import Reading
from adbench.deploy.torch_engine import as_input
from adbench.errors import UserError
from adbench.training.threshold import StoredThreshold, threshold_of
from tests.e2e.verbs import environment
from tests.toy.method import ToyDetector

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The toy run exported once as ONNX and as OpenVINO."""
    from adbench.cli.main import main

    folder = shutil.copytree(trained[0], tmp_path_factory.mktemp("export") / "run")
    before = digest(folder / "detector.safetensors")
    for kind in ("onnx", "openvino"):
        assert main(["export", f"run={folder}", f"format={kind}", "threads=1"]) == 0
    assert digest(folder / "detector.safetensors") == before
    return folder, trained[1]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["onnx-fp32/detector.onnx", "openvino-fp32/detector.xml"])
def test_parity_holds_and_can_be_repeated(exported, here, name):
    folder, _ = exported
    path = folder / "export" / name
    found = json.loads(path.with_name("parity.json").read_text())
    assert found["met"] is True
    assert found["worst"] <= 1e-4
    assert found["decisions"]["flips"] == 0
    assert set(found["cases"]) == {"batch 1", "batch 8", "odd", "black", "white"}
    assert "within tolerance" in here("export", f"check={path}", check=0).told


@pytest.mark.parametrize("name", ["onnx-fp32/detector.onnx", "openvino-fp32/detector.xml"])
def test_predict_by_an_export_gives_the_runs_scores(exported, here, name):
    folder, data = exported
    path = folder / "export" / name
    out = here("predict", f"model={path}", f"source={data}/nut/test", f"out={name[:4]}", check=0)
    with open(out.path / "scores.csv") as lines:
        found = {row["source"]: row for row in csv.DictReader(lines)}
    with open(folder / "predictions.csv") as lines:
        for row in csv.DictReader(lines):
            own = found[str(data / row["path"])]
            assert float(own["score"]) == pytest.approx(float(row["score"]), abs=1e-5)
            assert own["verdict"] == {"anomalous": "ng", "normal": "ok"}[row["decision"]]


def test_the_runtime_is_free_of_torch(exported, tmp_path):
    """A process in which torch, hydra, yaml and scipy cannot be imported judges pictures."""
    folder, data = exported
    path = folder / "export/onnx-fp32/detector.onnx"
    words = ["predict", f"model={path}", f"source={data}/nut/test", "out=out", "overlays=all"]
    normals = [f"calibrate={data}/nut/test/good"]
    code = (
        "import sys\n"
        "for name in ('torch', 'hydra', 'omegaconf', 'yaml', 'scipy', 'timm', 'lightning'):\n"
        "    sys.modules[name] = None\n"
        "import adbench.deploy.runtime\n"
        "from adbench.cli.main import main\n"
        f"sys.exit(main({words + normals!r}))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert len(list((tmp_path / "out/overlays").glob("*.png"))) == 8


def test_a_threshold_written_back_beside_a_file_counts(exported, here):
    folder, data = exported
    path = Path(shutil.copytree(folder / "export/onnx-fp32", "copy")) / "detector.onnx"
    words = (f"calibrate={data}/nut/test/good", "write_back=true")
    here("predict", f"model={path}", *words, check=0)
    told = here("predict", f"model={path}", f"source={data}/nut/test", check=0)
    assert "4 pictures of" in told.err


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(40, 64), (97, 31), (16, 16), (24, 24), (13, 200)])
def test_the_graph_fits_pictures_as_training_does(fit, size):
    """Against data.fit on smooth pictures; what differs is the rounding to 256 levels."""
    torch.manual_seed(0)
    detector = ToyDetector(4).eval()
    reading = Reading((24, 24), fit)
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = (100 + 60 * np.sin(rows / 9) + 50 * np.cos(columns / 7)).astype(np.uint8)
    picture = np.repeat(picture[..., None], 3, axis=2)
    with torch.no_grad():
        score, framed = Graph(detector, reading, "uint8")(torch.from_numpy(picture)[None])
        own = detector(as_input(fitted(picture, (24, 24), fit)[None]))
    expected = unfitted(own.anomaly_map[0, 0].numpy(), size, fit)
    assert framed.shape == (1, 1, *size)
    assert score.item() == pytest.approx(own.score.item(), abs=0.02)
    assert np.abs(framed[0, 0].numpy() - expected).max() < 0.02


def test_axis_matrices_are_averages():
    axis = tuple(torch.tensor(float(value)) for value in (3, 10, 2, 5))
    down = into_working(axis, 20, 9, torch.tensor(True))
    assert torch.allclose(down.sum(1), torch.ones(9))
    assert down[2].tolist() == [0] * 3 + [0.5, 0.5] + [0] * 15
    assert torch.equal(down[0], down[2])  # what is added repeats the border
    up = out_of_working(axis, 20, 9)
    assert up.sum(1).tolist() == [0] * 3 + [1] * 10 + [0] * 7


def test_tracing_leaves_the_detector_alone(exported):
    folder, data = exported
    import adbench

    detector = adbench.load_detector(folder)
    before = detector.predict(data / "nut/test/spot/000.png")
    graph = Graph(detector, Reading((24, 24)), "float")
    assert graph.detector is not detector
    after = detector.predict(data / "nut/test/spot/000.png")
    assert torch.equal(before.anomaly_map, after.anomaly_map)


def hostile(path, change):
    model = onnx.load(path)
    change(model)
    return model


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def looping(model):
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], ["x"]))


def foreign(model):
    model.graph.node.append(onnx.helper.make_node("Run", [], ["x"], domain="evil"))


@pytest.mark.parametrize(
    ("change", "told"),
    [(external, "another file"), (looping, "need not end"), (foreign, "unknown domain")],
)
def test_a_hostile_file_is_refused_before_it_is_opened(exported, here, change, told):
    folder, _ = exported
    model = hostile(folder / "export/onnx-fp32/detector.onnx", change)
    with open("bad.onnx", "wb") as file:
        file.write(model.SerializeToString())
    result = here("predict", "model=bad.onnx", "source=.", check=2)
    assert told in result.told


def test_broken_files_are_refused_in_one_line(exported, here):
    folder, _ = exported
    whole = (folder / "export/onnx-fp32/detector.onnx").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(25):
        data = bytearray(whole[: rng.integers(1, len(whole))] if number % 2 else whole)
        data[rng.integers(0, min(len(data), 400))] ^= 1 << int(rng.integers(8))
        Path("broken.onnx").write_bytes(data)
        with contextlib.suppress(UserError):  # and nothing else
            check_onnx(Path("broken.onnx"))
    Path("broken.onnx").write_bytes(whole[:-100])
    here("predict", "model=broken.onnx", "source=.", check=2)


def test_a_changed_file_is_not_the_one_of_its_sums(exported, here):
    folder, _ = exported
    copy = Path(shutil.copytree(folder / "export/onnx-fp32", "changed"))
    with open(copy / "detector.onnx", "ab") as file:
        file.write(b"\x7a\x00")
    assert "SHA256SUMS" in here("predict", f"model={copy}/detector.onnx", "source=.", check=2).told


def test_plain_torch_files_and_refusals(exported, here):
    folder, data = exported
    made = here("export", f"run={folder}", "format=torch", "out=plain", check=0)
    out = here("predict", f"model={made.path}", f"source={data}/nut/test/good", "out=o", check=0)
    assert out.path.name == "o"
    refused = here("export", f"run={folder}", "precision=int8", "out=q", check=2)
    assert "no convolution" in refused.told
    assert "try" not in here("export", f"run={folder}", "format=tensorrt", check=2).told


def test_thresholds_of_quantised_files():
    """Held-out normals give one anew; normals that were trained on say by how much to move."""
    crossed = np.array([1.0, 2.0, 3.0, 4.0])
    rule = Rule.of(StoredThreshold(threshold_of(crossed, 0.25), crossed, None))
    images = [np.zeros((2, 4, 4, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8)]

    def plain(batch):
        return batch[:, 0, 0, 0] * 0.1, None  # far below: the detector knows them

    def engine(batch):
        return plain(batch)[0] + 0.5, None

    moved = rule_again(engine, plain, images, rule, unseen=False).stored
    assert moved.threshold.value == pytest.approx(rule.stored.threshold.value + 0.5)
    assert "moved by 0.5" in moved.threshold.source
    anew = rule_again(engine, plain, images, rule, unseen=True).stored
    assert sorted(anew.scores) == pytest.approx([0.5, 0.5, 0.6])
