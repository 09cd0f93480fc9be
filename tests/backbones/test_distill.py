"""The recipe of the bundled network: its teacher, its pictures, its loop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from adbench.backbones.distill import distill
from adbench.backbones.distill.blocks import (
    chained_outputs,
    loaded_teacher,
    local_outputs,
    standardised_errors,
    unexplained_shares,
    untrained_student,
)
from adbench.backbones.distill.crops import CropSource
from adbench.backbones.distill.dense import DenseDiscrimination, contrast
from adbench.backbones.distill.distillation import Distillation
from adbench.backbones.distill.formula import FormulaPretraining, class_member
from adbench.backbones.distill.generated import MAKERS, generated_picture
from adbench.backbones.distill.photographs import loaded_photographs, packaged_photographs
from adbench.backbones.distill.recipe import Recipe, recipe_from
from adbench.cli.main import main
from adbench.config.compose import compose_config
from adbench.errors import UserError

TINY = {"batch_size": 2, "side": 32, "canvases": 3, "photographs": 0.0}


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def resnet():
    """A ResNet-18 with statistics unlike those of an untrained one."""
    generator = torch.Generator().manual_seed(0)
    network = timm.create_model("resnet18", pretrained=False).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            size = module.weight.shape
            module.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.1)
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
    return network


@pytest.fixture(scope="module")
def teacher_file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    kept = {k: v for k, v in resnet.state_dict().items() if not k.startswith(("layer4", "fc"))}
    save_file(kept, path)
    return path


def test_folded_teacher_equals_the_network_with_batch_norm(resnet, teacher_file):
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = resnet.forward_intermediates(image, indices=[1, 2, 3], intermediates_only=True)
        found = loaded_teacher(teacher_file)(image)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_file_that_is_no_teacher_is_named(tmp_path):
    path = tmp_path / "part.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(UserError, match="no ResNet-18 to layer3"):
        loaded_teacher(path)


def test_a_student_equal_to_its_teacher_has_no_error(teacher_file):
    teacher = loaded_teacher(teacher_file)
    image = torch.randn(1, 3, 32, 32)
    targets = chained_outputs(teacher, image)
    ones = [torch.ones(t.shape[1]) for t in targets]
    for outputs in (local_outputs(teacher, image, targets), chained_outputs(teacher, image)):
        assert max(float(e) for e in standardised_errors(outputs, targets, ones)) == 0
        assert max(unexplained_shares(outputs, targets)) == 0


def test_an_untrained_student_passes_its_input_through_blocks_that_keep_the_shape():
    student = untrained_student()
    x = torch.rand(1, 64, 8, 8)
    assert torch.equal(student.layer1[1](x), x)


def test_every_maker_gives_a_picture_fixed_by_its_generator():
    for maker, _ in MAKERS.values():
        first, second = (maker(np.random.default_rng(3), 48) for _ in range(2))
        assert first.shape == (48, 48, 3)
        assert first.dtype == np.uint8
        assert (first == second).all()
    assert sum(share for _, share in MAKERS.values()) == pytest.approx(1)


def test_pictures_of_a_series_differ():
    pictures = [generated_picture(0, number, 32).tobytes() for number in range(20)]
    assert len(set(pictures)) == 20


def test_batches_depend_on_seed_and_step_alone():
    first, second = (CropSource(0, 32, photographs=0.5, canvases=4) for _ in range(2))
    first.batch(0, 3)
    assert torch.equal(first.batch(7, 3), second.batch(7, 3))
    assert not torch.equal(first.batch(7, 3), first.batch(8, 3))
    streamed = list(first.batches(5, 9, 3))
    assert torch.equal(streamed[2], second.batch(7, 3))
    assert 0 <= streamed[0].min() <= streamed[0].max() <= 1


def test_photographs_come_with_the_packages_and_from_folders(tmp_path):
    assert len(packaged_photographs()) >= 15
    with pytest.raises(UserError, match="no photograph in"):
        loaded_photographs([tmp_path], 64)


def test_local_errors_fall(teacher_file, tmp_path):
    recipe = Recipe(teacher=str(teacher_file), steps=40, local=1.0, **TINY)
    training = Distillation(recipe, tmp_path)
    training.prepare()
    batch = training.source.batch(0, 2)
    before = sum(float(e.detach()) for e in training.losses(batch))
    training.run(silent)
    assert sum(float(e.detach()) for e in training.losses(batch)) < 0.7 * before


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        ("distill", Distillation),
        ("formula", FormulaPretraining),
        ("dense", DenseDiscrimination),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(objective, kind, teacher_file, tmp_path):
    keys = {"objective": objective, "teacher": str(teacher_file), "steps": 6, "classes": 3}
    recipe = Recipe(**keys, **TINY)
    whole = kind(recipe, tmp_path / "whole").run(silent)
    kind(recipe, tmp_path / "halves").run(silent, stop_after=4)
    said: list[str] = []
    halves = kind(recipe, tmp_path / "halves").run(said.append)
    assert "resuming at step 4" in said
    first, second = load_file(whole), load_file(halves)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert {value.dtype for value in first.values()} == {torch.float16}


def test_both_windows_show_the_same_where_they_overlap(tmp_path, monkeypatch):
    monkeypatch.setattr("adbench.backbones.distill.dense._relit", lambda rng, window: window)
    training = DenseDiscrimination(Recipe(objective="dense", **TINY), tmp_path)
    training.prepare()
    shifts = set()
    for step in range(8):
        first, second, (down, right) = training.windows(step)
        assert torch.equal(first[..., down:, right:], second[..., : 32 - down, : 32 - right])
        assert not down % 16
        assert not right % 16
        shifts.add((down, right))
    assert len(shifts) > 2


def test_equal_maps_have_less_contrast_than_turned_ones_and_neighbours_do_not_count():
    maps = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(contrast(maps, maps)) < 0.1
    assert float(contrast(maps, maps.flip(0))) > 3
    twins = maps.clone()
    twins[:, :, :, 1::2] = twins[:, :, :, ::2]  # each cell beside its double
    assert float(contrast(twins, twins)) < 0.1


def test_positions_are_learned(tmp_path):
    recipe = Recipe(objective="dense", steps=40, lr=1e-3, **TINY)
    training = DenseDiscrimination(recipe, tmp_path)
    training.prepare()
    batch = training.windows(0)
    before = sum(float(e.detach()) for e in training.losses(batch))
    training.run(silent)
    assert sum(float(e.detach()) for e in training.losses(batch)) < 0.8 * before


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    keys = {"objective": "formula", "steps": 1, "classes": 2, **TINY}
    distill(keys, tmp_path, say=silent)
    with pytest.raises(UserError, match="another recipe"):
        distill({**keys, "lr": 1e-4}, tmp_path, say=silent)


def test_training_goes_on_from_given_weights(teacher_file, tmp_path):
    formula = {"objective": "formula", "steps": 1, "classes": 2, **TINY}
    start = distill(formula, tmp_path / "a", say=silent)
    recipe = Recipe(teacher=str(teacher_file), start=str(start), steps=1, **TINY)
    training = Distillation(recipe, tmp_path / "b")
    assert torch.equal(
        training.student.stem.conv.weight.half(), load_file(start)["stem.conv.weight"]
    )


def test_stored_metadata_names_files_without_their_folders(teacher_file, tmp_path):
    path = distill({"teacher": str(teacher_file), "steps": 1, **TINY}, tmp_path, say=silent)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["recipe"])["teacher"] == teacher_file.name
    assert str(tmp_path) not in json.dumps(metadata)


def test_members_of_a_class_resemble_one_another_more_than_others():
    def shape(number, member):
        gray = class_member(0, number, member).astype(float).mean(2)
        level = np.median(gray)
        return np.abs(gray - level) > 0.25 * np.abs(gray - level).max()

    def overlap(a, b):
        return (a & b).sum() / max((a | b).sum(), 1)

    same = np.mean([overlap(shape(n, 0), shape(n, 1)) for n in range(12)])
    other = np.mean([overlap(shape(n, 0), shape(n + 1, 0)) for n in range(12)])
    assert same > 1.5 * other


def test_recipes_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="did you mean 'batch_size'"):
        recipe_from({"teacher": "x", "batchsize": 3})
    with pytest.raises(UserError, match="teacher= is missing"):
        recipe_from({})
    with pytest.raises(UserError, match="multiple of 16"):
        recipe_from({"teacher": "x", "side": 100})
    with pytest.raises(UserError, match="steps=many: a whole number"):
        recipe_from({"teacher": "x", "steps": "many"})


def test_the_verb_takes_the_keys_of_the_recipe_with_the_same_defaults(capsys):
    keys = compose_config("distill", [])
    for name in ("folder", "device", "bfloat16", "threads"):
        keys.pop(name)
    assert recipe_from({**keys, "teacher": "x"}) == recipe_from({"teacher": "x"})
    assert main(["distill", "stepz=1"]) == 2
    assert "did you mean 'steps'" in capsys.readouterr().err
