"""The command line in this process."""

from __future__ import annotations

import pytest

from tests.e2e.verbs import REPOSITORY, Here


@pytest.fixture
def here(monkeypatch, capfd, tmp_path):
    """The command line in this process, in an empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Here(monkeypatch, capfd, folder)
