"""What is looked at on the way is the detector that is saved, for every method."""

from __future__ import annotations

import pytest
import torch

from adbench.config.locate import options
from adbench.config.schema import settings
from adbench.config.targets import imported
from adbench.methods.base import AnomalyModule, load_detector
from adbench.training.build import build_module
from adbench.training.session import train
from tests.conformance.test_methods import configured, data, quiet

assert data  # the fixture
# GAA keeps the best of the states it looked at, which need not be the last (tests/methods/gaa)
PLAIN = {"gaa": ["model.use.select=last"]}


@pytest.mark.parametrize("model", options("model"))
def test_the_last_look_is_at_what_is_saved(model, data, tmp_path, monkeypatch):
    words = ["train.epochs=2", "train.oracle_every=1", *PLAIN.get(model, [])]
    config = configured(model, data, tmp_path, *words)
    kind = imported(config["model"]["_target_"], AnomalyModule, "model._target_")
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    refreshed, looked = kind.refresh, []

    def watched(module):
        refreshed(module)
        with torch.no_grad():
            looked.append(module.detector(image).anomaly_map)

    monkeypatch.setattr(kind, "refresh", watched)
    (folder,) = train(config, [], quiet)
    with torch.no_grad():
        saved = load_detector(folder)(image).anomaly_map
    assert len(looked) >= 2  # after each epoch
    module = build_module(config, settings(config))
    assert torch.equal(looked[0], looked[1]) == module.requirements(7).one_pass
    torch.testing.assert_close(looked[1], saved)
