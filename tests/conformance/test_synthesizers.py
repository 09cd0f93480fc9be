"""Every method that trains on synthetic anomalies takes any synthesizer of the group."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adbench.config.locate import options
from adbench.runs.files import read_json
from adbench.training.session import train
from tests.conformance.test_methods import configured, data, quiet
from tests.data import trees

assert data  # the fixture

SDAS_IN_THE_RUN = [
    "+synthesis.fit.network.width=32",
    "+synthesis.fit.network.multipliers=[1,1]",
    "+synthesis.fit.network.blocks=1",
    "+synthesis.fit.network.attention=[]",
    "synthesis.fit.size=32",
    "synthesis.fit.steps=2",
    "synthesis.fit.batch_size=2",
    "synthesis.n=2",
    "synthesis.steps=2",
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    root = tmp_path_factory.mktemp("pool")
    for number in range(3):
        trees.image(root / f"{number}.png", size=(48, 40))
    return root


# those as published need textures or a model that no test has
OURS = {name for name in options("synthesis") if not name.endswith("_published")} - {"sdas"}


@pytest.mark.parametrize("synthesis", sorted(OURS - {"none"}))
@pytest.mark.parametrize("model", ["glass", "realnet"])
def test_a_method_trains_with_any_synthesizer(model, synthesis, data, pool, tmp_path):
    more = [f"synthesis={synthesis}"]
    if synthesis == "pool" or (synthesis, model) == ("sdas_tiny", "glass"):
        more.append(f"synthesis.root={pool}")
    elif synthesis == "sdas_tiny":
        more += SDAS_IN_THE_RUN
    (folder,) = train(configured(model, data, tmp_path, *more, "train.epochs=1"), [], quiet)
    metrics = read_json(folder / "metrics.json")
    assert metrics["image"]["auroc"] is not None
    history = np.genfromtxt(folder / "history.csv", delimiter=",", names=True)
    assert math.isfinite(float(history["loss"]))
