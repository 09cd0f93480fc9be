"""Equal scores: ours and anomalib 2.7.0's on one bank (anomalib.npz, random data)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adbench.methods import nearest
from adbench.methods.nearest import Bank
from adbench.methods.patchcore.detector import reweighted_score


@pytest.fixture(scope="module")
def stored():
    with np.load(Path(__file__).with_name("anomalib.npz")) as found:
        return {name: torch.from_numpy(found[name]) for name in found.files}


@pytest.mark.parametrize("coarse", [False, True])
def test_distances_and_scores_are_anomalibs(stored, coarse, monkeypatch):
    monkeypatch.setattr(nearest, "bfloat16_is_fast", lambda device: coarse)
    monkeypatch.setattr(nearest, "_CHUNK", 50)
    bank = Bank(len(stored["bank"]), stored["bank"].shape[1])
    bank.set(stored["bank"])
    distance = bank.nearest(stored["rows"]).sqrt().view(stored["distance"].shape)
    torch.testing.assert_close(distance, stored["distance"], rtol=0, atol=1e-4)
    rows = stored["rows"].view(len(distance), -1, bank.kept.shape[1])
    farthest = rows[torch.arange(len(rows)), distance.argmax(1)]
    score = reweighted_score(farthest, bank.exact, 9)
    torch.testing.assert_close(score, stored["score"], rtol=0, atol=1e-4)
