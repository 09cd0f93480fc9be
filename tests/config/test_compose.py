"""Composition and its errors."""

from __future__ import annotations

import pytest

from adbench.config.compose import compose_config, unknown_key
from adbench.config.locate import GROUPS, conf_folder, options
from adbench.config.schema import TrainKeys, from_mapping, settings
from adbench.errors import UserError


def test_every_option_of_every_group_composes():
    for group in GROUPS:
        for name in options(group):
            config = compose_config("train", [f"{group}={name}"])
            assert config["model"]["_target_"], (group, name)


def test_a_model_brings_its_synthesis_and_the_command_line_wins():
    usual = compose_config("train", ["model=glass"])
    assert usual["synthesis"]["name"] == "las"
    assert usual["backbone"]["name"] == "wide_resnet50_2.tv_in1k"
    chosen = compose_config("train", ["model=glass", "backbone=bundled", "synthesis=none"])
    assert chosen["backbone"]["name"] == "bundled"
    assert not chosen["synthesis"].get("_target_")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["model=glas"], "no model 'glas'; did you mean 'glass'?"),
        (["dataset=mvtek"], "did you mean 'mvtec'?"),
        (["train.step=3"], "no key 'step' in train; did you mean 'steps'?"),
        (["trian.steps=3"], "no key 'trian' in the configuration; did you mean 'train'?"),
        (["seed=1,2"], "use `adbench sweep` or --multirun"),
        (["=3"], "write key=value"),
        (["seed"], "write key=value"),
    ],
)
def test_errors_are_one_line_with_the_nearest_right_thing(overrides, told):
    with pytest.raises(UserError) as raised:
        compose_config("train", overrides)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.steps=many"], "train.steps=many: a whole number"),
        (["train.batch_size=0"], "a whole number in [1, 4096]"),
        (["protocol=dishonest"], "choose one of honest, paper"),
        (["train.select=test"], "needs protocol=paper"),
        (["metrics.limits=[2.0]"], "a number in (0, 1]"),
        (["dataset.hold_out=1"], "a number in [0, 1)"),
        (["metrics.mode=exakt"], "did you mean 'exact'?"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(overrides, told):
    with pytest.raises(UserError) as raised:
        settings(compose_config("train", overrides))
    assert told in str(raised.value)


def test_a_users_folder_adds_options(tmp_path):
    (tmp_path / "hardware").mkdir()
    text = (
        (conf_folder() / "hardware" / "cpu.yaml")
        .read_text()
        .replace("accelerator: cpu", "accelerator: cpu\nthreads: 7")
    )
    (tmp_path / "hardware" / "mine.yaml").write_text(text)
    config = compose_config("train", ["hardware=mine"], tmp_path)
    assert config["hardware"]["threads"] == 7


def test_every_key_of_every_file_has_a_comment():
    bare = []
    for path in sorted(conf_folder().rglob("*.yaml")):
        if path.parent.name in ("experiment", "sweep"):
            continue  # presets and rows of tables repeat keys explained in the groups
        for number, line in enumerate(path.read_text().splitlines(), 1):
            key, _, rest = line.partition(":")
            leaf = rest.strip() and key.strip() and not line.strip().startswith(("#", "-"))
            if (
                leaf
                and "#" not in rest
                and key.strip() not in ("_target_", "name", "accelerator", "devices", "strategy")
            ):
                bare.append(f"{path.name}:{number}: {line.strip()}")
    assert not bare


def test_unknown_key_walks_the_tree():
    tree = {"a": {"b": {"c": 1}}}
    assert unknown_key("a.b.c", tree) is None
    assert "did you mean 'c'" in str(unknown_key("a.b.d", tree) or "") or unknown_key("a.b.d", tree)
    assert "holds a value" in str(unknown_key("a.b.c.d", tree))


def test_a_budget_is_needed():
    with pytest.raises(UserError, match="nothing says when training ends"):
        from_mapping(TrainKeys, {}, "train")


@pytest.mark.parametrize("text", ["model: {a: [1,", "a: 1\n\tb: 2\n", "- 1\nb: 2\n", "\x00"])
def test_a_users_file_that_is_no_yaml_is_named_in_one_line(tmp_path, text):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "broken.yaml").write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        compose_config("train", ["experiment=broken"], tmp_path)
