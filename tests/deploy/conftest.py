"""One trained toy run for the whole room, and pictures to judge with it."""

from __future__ import annotations

import shutil

import pytest

from tests.e2e.verbs import process, tiny_data, toy


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of the toy method; copy it (``run``) before writing into it."""
    root = tmp_path_factory.mktemp("deploy")
    data = tiny_data(root / "data", test=4)
    keys = toy(data, "train.steps=40", "run.root=outputs", "run.name=toy", "dataset.hold_out=0.4")
    keys.append("seed=1")  # one good test picture lies above the threshold, none on it
    made = process("train", *keys, cwd=root, check=0)
    return root / made.stdout.strip().splitlines()[-1], data


@pytest.fixture
def run(trained, tmp_path):
    folder, data = trained
    return shutil.copytree(folder, tmp_path / "run"), data
