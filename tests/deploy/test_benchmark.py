"""benchmark: what it measures adds up; two files compare; a missing peer is told."""

from __future__ import annotations

import json

import pytest
import torch

from adbench.deploy.benchmark import compiled_engine
from adbench.deploy.regression import compared
from adbench.errors import UserError
from tests.toy.method import ToyDetector


def test_a_run_is_measured_by_every_engine_and_compared(run, here):
    folder, _ = run
    words = ("engines=[eager,onnx]", "batches=[1,2]", "rounds=3", "seconds=0.02", "threads=1")
    made = here("benchmark", f"run={folder}", *words, "peers=anomalib", check=0)
    found = json.loads(made.path.read_text())
    assert set(found["network"]) == {"1", "2"}
    for batch, entries in found["network"].items():
        assert set(entries) == {"eager", "onnx"}
        for entry in entries.values():
            assert entry["p50_ms"] <= entry["p95_ms"] <= entry["p99_ms"]
            assert entry["images_per_second"] > 0
        assert batch in ("1", "2")
    assert set(found["end_to_end"]) == {"eager", "onnx"}
    assert (found["threads"], found["dtype"], found["device"]) == (1, "float32", "cpu")
    assert found["peak_memory"] > 0
    assert "anomalib" in found["peers"]["why"]
    assert "adbench[baselines]" in made.err or "has no model" in made.err
    path = str(made.path)
    here("benchmark", f"compare={path}", f"against={path}", check=0)
    found["network"]["1"]["eager"]["images_per_second"] *= 0.5
    made.path.with_name("slow.json").write_text(json.dumps(found))
    slow = here("benchmark", f"compare={path[:-14]}slow.json", f"against={path}", check=1)
    assert "eager, batch 1" in slow.told


def test_what_cannot_be_compiled_is_told_and_the_rest_is_measured(monkeypatch):
    detector = ToyDetector(4).eval()
    where = (24, 24), 1, torch.device("cpu")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in compiled_engine(detector, *where)
    monkeypatch.setenv("CXX", "true")  # there, and no compiler

    def broken(self, **given):
        self.forward = lambda image: 1 / 0

    monkeypatch.setattr(ToyDetector, "compile", broken)
    assert compiled_engine(detector, *where) == "it cannot be compiled: division by zero"


def test_other_settings_are_not_compared():
    base = {"size": [8, 8], "threads": 1, "device": "cpu", "dtype": "float32"}
    with pytest.raises(UserError, match="threads=1 before, 2 now"):
        compared({**base, "threads": 2}, base, 0.1)
    with pytest.raises(UserError, match="damaged"):
        compared(base, base, 0.1)
