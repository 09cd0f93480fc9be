"""predict: exact scores, one verdict a picture, nothing lost, nothing twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import adbench
from tests.e2e.verbs import environment, process


def rows(out):
    with open(out / "scores.csv", newline="") as lines:
        return list(csv.DictReader(lines))


def test_scores_are_those_of_the_run(run, here):
    folder, data = run
    out = here("predict", f"run={folder}", f"source={data}/nut/test", "batch_size=3", check=0)
    found = {row["source"]: float(row["score"]) for row in rows(out.path)}
    with open(folder / "predictions.csv") as lines:
        stored = {str(data / row["path"]): row for row in csv.DictReader(lines)}
    assert found.keys() == stored.keys()
    for name, score in found.items():
        assert score == pytest.approx(float(stored[name]["score"]), abs=1e-5)
    decided = {row["source"]: row["verdict"] for row in rows(out.path)}
    told = {"anomalous": "ng", "normal": "ok"}
    assert decided == {name: told[row["decision"]] for name, row in stored.items()}


def test_the_same_command_judges_only_what_is_new(run, here):
    folder, data = run
    words = ("predict", f"run={folder}", f"source={data}/nut/test/good")
    first = here(*words, check=0)
    before = (first.path / "scores.csv").read_bytes()
    assert "0 judged now" in here(*words, check=0).told
    assert (first.path / "scores.csv").read_bytes() == before
    refused = here(*words, "threshold=0.5", check=2)
    assert "threshold=" in refused.told
    assert "force=true" in refused.told
    here(*words, "threshold=0.5", "force=true", check=0)


def test_what_cannot_be_read_is_an_error_and_the_rest_is_judged(run, here, tmp_path):
    folder, data = run
    source = tmp_path / "mixed"
    shutil.copytree(data / "nut/test/good", source / "sub")
    whole = (data / "nut/test/good/000.png").read_bytes()
    (source / "cut.png").write_bytes(whole[: len(whole) // 2])
    (source / "empty.png").write_bytes(b"")
    (source / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("1", (60_000, 4_000)).save(source / "bomb.png")
    os.mkfifo(source / "pipe.png")
    (source / "leads_out.png").symlink_to(data / "nut/test/good/000.png")
    out = here("predict", f"run={folder}", f"source={source}", "stdout=true", check=1)
    told = [json.loads(line) for line in out.out.splitlines()]
    errors = {line["source"].rpartition("/")[2] for line in told if line["verdict"] == "error"}
    bad = {"cut.png", "empty.png", "script.png", "bomb.png", "pipe.png", "leads_out.png"}
    assert errors == bad
    assert len(told) == len(bad) + 4
    assert all(line["error"] and line["score"] is None for line in told if line["score"] is None)
    assert len({line["id"] for line in told}) == len(told)
    assert all(line["time"].endswith("+00:00") for line in told)


def test_regions_confidence_and_drawings(run, here):
    folder, data = run
    words = ("overlays=all", "maps=ng", "stdout=true", "out=judged")
    out = here("predict", f"run={folder}", f"source={data}/nut/test/spot", *words, check=0)
    for line in map(json.loads, out.out.splitlines()):
        assert (line["confidence"] > 0.5) == (line["verdict"] == "ng")
        assert cv2.imread(str(here_path(out, line["overlay"]))) is not None
        if line["verdict"] == "ng":
            values = cv2.imread(str(here_path(out, line["map"])), cv2.IMREAD_UNCHANGED)
            assert values.dtype == np.float32
            assert values.shape == (24, 24)
            peaks = [region["peak"] for region in line["regions"]]
            assert peaks == sorted(peaks, reverse=True)
            assert peaks[0] == pytest.approx(float(values.max()))
            left, top, wide, tall = line["regions"][0]["box"]
            place = np.unravel_index(values.argmax(), values.shape)
            assert top <= place[0] < top + tall
            assert left <= place[1] < left + wide


def here_path(result, name):
    return Path("judged") / name


def test_calibrate_takes_the_quantile_and_writes_it_back(run, here, tmp_path):
    folder, data = run
    refused = here("predict", f"run={folder}", f"calibrate={data}/nut/train/good", check=2)
    assert "trained on" in refused.told
    normals = f"calibrate={data}/nut/test/good"
    here("predict", f"run={folder}", normals, "write_back=true", check=0)
    stored = json.loads((folder / "threshold.json").read_text())
    with open(folder / "predictions.csv") as lines:
        scores = [float(r["score"]) for r in csv.DictReader(lines) if r["label"] == "0"]
    assert stored["value"] == pytest.approx(max(scores), abs=1e-6)
    assert stored["expected_false_alarm_rate"] == 0.2  # (0 + 1) / (4 + 1)
    assert (folder / "threshold.json.before").exists()
    assert adbench.load_detector(folder).threshold == stored["value"]


def test_a_video_is_judged_frame_by_frame_and_a_playlist_is_none(run, here):
    folder, _ = run
    writer = cv2.VideoWriter("line.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for level in range(7):
        writer.write(np.full((32, 48, 3), 20 * level, np.uint8))
    writer.release()
    out = here("predict", f"run={folder}", "source=line.avi", "every=3")
    assert [row["source"] for row in rows(out.path)] == [f"line.avi#{at}" for at in (0, 3, 6)]
    Path("list.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    assert "no MP4" in here("predict", f"run={folder}", "source=list.mp4", check=2).told


class Camera:
    """What OpenCV shows of a camera: seven frames, of which the fourth is torn."""

    def __init__(self, number):
        self.number, self.at = number, -1

    def isOpened(self):
        return self.number == 0

    def grab(self):
        self.at += 1
        return self.at < 7

    def retrieve(self):
        if self.at == 3:
            return False, None
        return True, np.full((32, 48, 3), (0, 0, 20 * self.at), np.uint8)  # BGR

    def release(self):
        self.at = None


def test_a_cameras_frames_are_judged_and_a_torn_one_is_an_error(run, here, monkeypatch):
    folder, _ = run
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    words = ("predict", f"run={folder}", "source=0", "every=3", "out=out")
    out = here(*words, check=1)
    found = {row["source"]: row for row in rows(out.path)}
    assert list(found) == ["camera:0#0", "camera:0#3", "camera:0#6"]
    assert found["camera:0#3"]["verdict"] == "error"
    red = np.zeros((32, 48, 3), np.uint8)
    red[..., 0] = 120
    score = adbench.load_detector(folder).predict(red).score.item()
    assert float(found["camera:0#6"]["score"]) == pytest.approx(score, abs=1e-6)
    here(*words, "limit=1", check=1)  # a camera's frames are new ones each time
    assert len(rows(out.path)) == 4


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("source=nowhere", "does not exist"),
        ("source=77", "camera 77"),
        ("sourse=x", "did you mean 'source'"),
        ("batch_size=0", "batch_size=0"),
        ("watch=true", "is no folder"),
    ],
)
def test_bad_requests_are_one_line(run, here, word, told):
    folder, _ = run
    words = ["source=nowhere"] if not word.startswith("sour") else []
    result = here("predict", f"run={folder}", *words, word, check=2)
    assert told in result.told


def test_every_input_gives_the_same_score(run):
    folder, data = run
    path = data / "nut/test/spot/000.png"
    detector = adbench.load_detector(folder)
    pixels = np.asarray(Image.open(path))
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
    kinds = (path, str(path), Image.open(path), pixels, tensor, tensor[None])
    scores = {detector.predict(kind).score.item() for kind in kinds}
    assert len(scores) == 1
    assert detector(tensor[None]).score.item() == pytest.approx(scores.pop(), abs=1e-6)
    large = detector.predict(np.zeros((50, 70, 3), np.uint8))
    assert large.anomaly_map.shape == (1, 1, 50, 70)


def test_a_watched_folder_loses_nothing_over_a_kill(run, tmp_path):
    folder, data = run
    source, out = tmp_path / "line", tmp_path / "out"
    source.mkdir()
    picture = (data / "nut/test/good/000.png").read_bytes()
    words = ["predict", f"run={folder}", f"source={source}", f"out={out}", "watch=true"]
    words += ["settle=0.6", "poll=0.05", "idle=2", "batch_size=4"]

    def watch():
        return subprocess.Popen(
            [sys.executable, "-m", "adbench", *words], env=environment(), stderr=subprocess.PIPE
        )

    first = watch()
    for number in range(60):
        (source / f"{number:03d}.png").write_bytes(picture)
        part = slice(number * len(picture) // 40, (number + 1) * len(picture) // 40)
        with open(source / "slow.png", "ab") as file:  # never at rest until its last part is there
            file.write(picture[part])  # nothing from the fortieth on
        time.sleep(0.03)
        if number == 40:
            wait_for(lambda: len(lines(out)) > 5)
            os.kill(first.pid, signal.SIGKILL)
            first.wait()
    with open(out / "scores.csv", "ab") as table:
        table.write(b"torn,line,without")  # as a kill in the middle of a write leaves it
    second = watch()
    assert second.wait(60) == 0, second.stderr.read()
    names = [row["source"] for row in rows(out)]
    assert sorted(names) == sorted(str(path) for path in source.glob("*.png"))
    assert {row["verdict"] for row in rows(out)} <= {"ok", "ng"}


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def lines(out):
    path = out / "scores.csv"
    return path.read_bytes().splitlines() if path.exists() else []


def test_predict_without_torch_is_told_in_the_process(run, tmp_path):
    """A word of the command line that is wrong is answered before torch is imported."""
    answer = process("predict", "run=nowhere", "source=x", cwd=tmp_path, check=2)
    assert "not a run folder" in answer.stderr
