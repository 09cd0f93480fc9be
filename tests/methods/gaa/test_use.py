"""What is done with pairs: the state that counts, the network that names types, the sweeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from adbench.config.compose import compose_config, conf_folder
from adbench.config.schema import settings
from adbench.errors import UserError
from adbench.methods.gaa.classifier import check_weights, fitted, type_network, with_weights
from adbench.methods.gaa.pairs import PairSet
from adbench.methods.gaa.selection import Best, divided, pixel_ap
from adbench.methods.gaa.settings import ClassifierKeys, GaaKeys

SWEEPS = sorted((conf_folder() / "sweep").glob("gaa_*.yaml"))
ROWS = [(path.stem, name) for path in SWEEPS for name in yaml.safe_load(path.read_text())["rows"]]


class Bright(torch.nn.Module):
    """Says how bright a pixel is, or how dark."""

    def __init__(self, sign):
        super().__init__()
        self.sign = torch.nn.Parameter(torch.tensor(float(sign)))

    def forward(self, image):
        said = 9 * self.sign * image[:, :1]
        return torch.cat([-said, said], 1)


def held():
    images, masks = [], []
    for i in range(6):
        mask = np.zeros((8, 8), bool)
        mask[i, 1:5] = True
        images.append(np.where(mask[..., None], 250, 20).astype(np.uint8).repeat(3, -1))
        masks.append(mask)
    return PairSet(images, masks, ["a", "a", "a", "a", "b", "b"])


def test_the_better_state_on_held_out_pairs_is_kept_whenever_it_came():
    best, network = Best(Bright(-1)), Bright(1)
    assert not best.due(0.4)
    assert best.due(0.5)
    assert best.look(network, held(), 0.5) == pytest.approx(1.0)
    assert not best.due(0.7)
    with torch.no_grad():
        network.sign.fill_(-1)
    assert best.due(0.8)
    assert best.look(network, held(), 0.8) < 0.5
    assert float(best.network.sign) == 1.0
    assert float(best.value) == pytest.approx(1.0)
    assert pixel_ap(network, held()) < 0.5


def test_a_canvas_lies_on_one_side_and_no_type_is_lost():
    canvases = [n % 37 for n in range(200)]
    rest, apart = divided(canvases, ["a"] * 200)
    assert {canvases[i] for i in rest}.isdisjoint(canvases[i] for i in apart)
    assert sorted([*rest, *apart]) == list(range(200))
    assert 0.05 < len(apart) / 200 < 0.2
    assert divided([10, 20], ["a", "a"]) == ([0, 1], [])
    assert divided([1, 20], ["a", "b"]) == ([0, 1], [])


def test_selection_on_held_out_synthetic_pairs_is_the_default():
    assert GaaKeys().use.select == "synthetic"


def test_resnet34_learns_without_weights_and_says_so():
    keys = ClassifierKeys(network="resnet34", weights="random", steps=2)
    check_weights(keys)
    torch.manual_seed(0)
    network = type_network("resnet34", 3)
    assert with_weights(network, keys) == "random"
    before = network.trunk.conv1.weight.detach().clone()
    image = torch.rand(3, 3, 32, 32)
    fitted(network, lambda step: (image, torch.arange(3)), keys)
    assert not torch.equal(network.trunk.conv1.weight, before)
    assert network(image).shape == (3, 3)


def test_missing_weights_are_told_before_anything_trains(tmp_path):
    keys = ClassifierKeys(network="resnet34", weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(UserError, match=r"model\.classifier: .*network=bundled"):
        check_weights(keys)


@pytest.mark.parametrize(("sweep", "row"), ROWS)
def test_every_row_of_the_papers_tables_is_a_configuration(sweep, row):
    own = yaml.safe_load((conf_folder() / "sweep" / f"{sweep}.yaml").read_text())["rows"][row]
    # table 4's other detectors bring their own defaults
    base = [] if sweep == "gaa_table4" else ["experiment=gaa_none_cpu"]
    config = compose_config("train", [*base, *own, "dataset.category=metal"])
    settings(config)
    assert config["dataset"]["defects"] == "third"
    if config["model"]["name"] == "gaa":
        keys = {k: v for k, v in config["model"].items() if k in GaaKeys.__dataclass_fields__}
        from adbench.config.typed import from_mapping

        assert isinstance(from_mapping(GaaKeys, keys, "model"), GaaKeys)


def test_the_ablation_removes_one_part_after_another():
    rows = yaml.safe_load((conf_folder() / "sweep/gaa_table5.yaml").read_text())["rows"]
    counts = [len(own) for own in rows.values()]
    assert counts == [0, 1, 2, 3]
    for one, other in zip(list(rows.values())[:-1], list(rows.values())[1:], strict=True):
        assert set(one) < set(other)
