"""What every test relies on: one torch thread a worker, and where the shared material lies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("ADBENCH_PLUGINS", "tests")  # the toy method of a third party

import adbench  # noqa: F401  (installs the torchvision finder before any test imports it)

# absl (OpenVINO brings it) keeps the stderr it was first imported under and closes it when a
# library configures the process's logging (submitit and ray do, on import): under capture that
# stream is pytest's own. The process's stderr is one it leaves open.
with contextlib.suppress(ImportError), contextlib.redirect_stderr(sys.__stderr__):
    import absl.logging  # noqa: F401

SHARED = Path(os.environ.get("ADBENCH_SHARED", Path(__file__).parents[2] / "shared"))


def pytest_configure(config: pytest.Config) -> None:
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED.is_dir():
        return
    skip = pytest.mark.skip(reason=f"the shared material is absent (looked in {SHARED})")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder: judges, photographs, weights. Mark the test ``shared``."""
    return SHARED


@pytest.fixture
def here(monkeypatch, capfd, tmp_path):
    """The command line in this process, in an empty current folder."""
    from tests.e2e.verbs import REPOSITORY, Here

    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Here(monkeypatch, capfd, folder)
