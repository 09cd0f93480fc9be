"""From real defects to pairs and their use; who was seen is never scored."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from adbench.cli import synthesize
from adbench.cli import test as retest
from adbench.config.compose import compose_config
from adbench.errors import UserError
from adbench.training.session import train
from tests.data import trees

SHRINK = yaml.safe_load((Path(__file__).parent / "shrink.yaml").read_text())


def part(path, defect=None, seed=0):
    """A grey disc on a dark ground, with a bright or a red spot on it."""
    rng = np.random.default_rng([seed, *path.as_posix().encode()])
    image = np.full((64, 64, 3), 30, np.uint8)
    cv2.circle(image, (32, 32), 26, (120, 120, 120), -1)
    image = (image + rng.integers(0, 8, image.shape)).astype(np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    if defect:
        y, x = (int(v) for v in rng.integers(22, 42, 2))
        cv2.circle(mask, (x, y), 5, 255, -1)
        image[mask > 0] = (230, 230, 230) if defect == "chip" else (30, 30, 200)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
    return mask


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    for i in range(10):
        part(root / "nut/train/good" / f"{i:03d}.png")
    for i in range(3):
        part(root / "nut/test/good" / f"{i:03d}.png", seed=1)
    for defect in ("chip", "stain"):
        for i in range(6):
            mask = part(root / "nut/test" / defect / f"{i:03d}.png", defect)
            target = root / "nut/ground_truth" / defect / f"{i:03d}_mask.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), mask)
    return root


def words(data, root, *more):
    return [
        "dataset=mvtec",
        f"dataset.root={data}",
        "dataset.category=nut",
        "hardware=cpu",
        "hardware.threads=1",
        "train.steps=3",
        "train.batch_size=4",
        "images.save=0",
        f"run.root={root}",
        *more,
    ]


def trained(data, root, *more, say=lambda line: None):
    config = compose_config("train", words(data, root, *more))
    (folder,) = train(config, [], say)
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return trained(data, root, "model=gaa", *SHRINK, "dataset.image_size=64", "run.name=gaa")


def seen_of(folder):
    return {row["file"] for row in json.loads((folder / "defects.json").read_text())["seen"]}


def scored_of(folder):
    with open(folder / "predictions.csv", newline="") as file:
        return {row["path"] for row in csv.DictReader(file)}


def test_the_split_is_written_and_disjoint(run):
    document = json.loads((run / "defects.json").read_text())
    assert document["counts"] == {
        "nut/chip": {"seen": 2, "test": 4},
        "nut/stain": {"seen": 2, "test": 4},
    }
    assert len(seen_of(run)) == 4
    assert not seen_of(run) & scored_of(run)
    assert len(scored_of(run)) == 3 + 8


def test_every_stage_is_drawn_and_the_pairs_are_whole(run):
    stages = run / "stages"
    for name in ("regions/contact", "masks/contact", "generate/contact", "filter/contact"):
        assert (stages / f"{name}.png").is_file(), name
    assert list((stages / "cluster").glob("cluster-*.png"))
    rows = [
        json.loads(line) for line in (stages / "filter/manifest.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 6
    for row in rows:
        image = cv2.imread(str(stages / "filter" / row["file"]))
        mask = cv2.imread(str(stages / "filter" / row["mask"]), cv2.IMREAD_GRAYSCALE)
        assert image.shape == (64, 64, 3)
        assert 0 < (mask > 0).mean() < 0.5
        assert row["out_px"] == 0.0


def test_types_are_named_on_the_test_defects(run):
    found = json.loads((run / "metrics.json").read_text())["types"]
    assert found["names"] == ["chip", "stain"]
    assert found["images"] == sum(map(sum, found["confusion"])) == 8


def test_a_detector_trained_on_the_pairs_scores_none_that_they_have_seen(run, data, tmp_path):
    told = []
    glass = [
        "model=glass",
        "backbone=bundled",
        "synthesis=pool",
        f"synthesis.root={run}",
        "dataset.image_size=64",
        "model.embed=32",
        "model.hidden=16",
        "run.name=glass",
    ]
    folder = trained(data, tmp_path, *glass, say=told.append)
    assert not scored_of(folder) & seen_of(run)
    assert len(scored_of(folder)) == 3 + 8
    assert seen_of(folder) == seen_of(run)
    assert any("4 test pictures were seen by the pairs" in line for line in told)
    # and so does a later test, on the same data and on a copy under other names
    retest.run([f"run={folder}", "plain=true"])
    copy = tmp_path / "copy" / "nut"
    shutil.copytree(data / "nut", copy)
    for path in sorted((copy / "test/chip").iterdir()):
        path.rename(path.with_name(f"9{path.name}"))
    for path in sorted((copy / "ground_truth/chip").iterdir()):
        path.rename(path.with_name(f"9{path.name}"))
    retest.run([f"run={folder}", f"dataset.root={copy.parent}", "plain=true"])
    elsewhere = next((folder / "tests").glob("mvtec*"))
    assert len(scored_of(elsewhere)) == 3 + 8


def test_the_best_state_on_held_out_pairs_counts(run):
    saved = torch.load(next(run.rglob("*.ckpt")), weights_only=False)["state_dict"]
    assert any(name.startswith("best.network.") for name in saved)


def test_realnet_takes_the_pairs_too_and_scores_none_of_the_seen(run, data, tmp_path):
    shrink = yaml.safe_load((Path(__file__).parents[1] / "realnet/shrink.yaml").read_text())
    own = [word for word in shrink if not word.startswith("synthesis")]
    pool = ["synthesis=pool", f"synthesis.root={run}"]
    folder = trained(data, tmp_path, "model=realnet", *own, *pool)
    assert not scored_of(folder) & seen_of(run)
    assert seen_of(folder) == seen_of(run)


def test_a_test_of_the_run_repeats_its_figures(run):
    assert retest.run([f"run={run}", "plain=true"]) == 0


def test_more_pairs_are_written_as_a_set_that_goes_on(run, tmp_path, capsys):
    target = tmp_path / "set"
    synthesize.run([f"run={run}", "n=3", "type=chip", f"out={target}"])
    first = {p: p.read_bytes() for p in target.rglob("nut/**/*.png")}
    synthesize.run([f"run={run}", "n=5", "type=chip", f"out={target}"])
    assert len(list((target / "nut/test/chip").glob("*.png"))) == 5
    assert all(path.read_bytes() == content for path, content in first.items())
    assert seen_of(target) == seen_of(run)
    with pytest.raises(UserError, match=r"type=chp: no such defect.*chip"):
        synthesize.run([f"run={run}", "n=3", "type=chp", f"out={tmp_path / 'other'}"])
    assert str(target) in capsys.readouterr().out


def test_seeds_repeat_and_a_finished_stage_is_kept(run, data, tmp_path):
    again = trained(data, tmp_path, "model=gaa", *SHRINK, "dataset.image_size=64", "until=filter")
    for path in sorted((run / "stages/filter").rglob("*.png")):
        assert path.read_bytes() == (again / path.relative_to(run)).read_bytes(), path
    told = []
    trained(
        data,
        tmp_path,
        *("model=gaa", *SHRINK, "dataset.image_size=64", "until=filter"),
        say=told.append,
    )
    assert sum("finished before, kept" in line for line in told) == 5


@pytest.mark.parametrize("data_of", ["real", "real_pairs", "canvases", "synthesis"])
def test_the_same_network_can_be_trained_on_the_controls(data_of, data, tmp_path):
    more = ["synthesis=draem"] if data_of == "synthesis" else []
    keys = [f"model.use.data={data_of}", "model.classifier.network=none", *more]
    folder = trained(data, tmp_path, "model=gaa", *SHRINK, "dataset.image_size=64", *keys)
    assert not scored_of(folder) & seen_of(folder)
    assert (folder / "stages").exists() == (data_of in ("real_pairs", "canvases"))


def test_a_small_diffusion_model_paints_from_scratch(data, tmp_path):
    folder = trained(
        data,
        tmp_path,
        "model=gaa",
        *SHRINK,
        "dataset.image_size=64",
        "diffusion=scratch",
        "diffusion.autoencoder.kind=lapped",
        "diffusion.network.widths=[8,16]",
        "diffusion.network.attention=[1]",
        "diffusion.network.head=8",
        "model.concept.steps=4",
        "model.concept.batch_size=4",
        "model.concept.width=16",
        "model.concept.windows=16",
        "model.concept.save_every=2",
        "model.generate.steps=3",
        "model.generate.per_type=2",
        "model.generate.net=32",
        "until=filter",
    )
    made = json.loads((folder / "stages/generate/made.json").read_text())
    assert made["base"] == "direct conditioning, scratch"
    rows = (folder / "stages/filter/scored.jsonl").read_text().splitlines()
    assert all(json.loads(row)["out_px"] == 0.0 for row in rows)


def bad(tmp_path, spoil):
    root = tmp_path / "bad"
    for i in range(4):
        trees.image(root / "nut/train/good" / f"{i:03d}.png", size=(32, 32))
    trees.image(root / "nut/test/good/000.png", size=(32, 32))
    for i in range(3):
        trees.image(root / "nut/test/hole" / f"{i:03d}.png", size=(32, 32))
        trees.mask(root / "nut/ground_truth/hole" / f"{i:03d}_mask.png", size=(32, 32))
    spoil(root / "nut")
    return root


def no_defect(root):
    shutil.rmtree(root / "test/hole")
    shutil.rmtree(root / "ground_truth")


def one_picture(root):
    for i in (1, 2):
        (root / f"test/hole/{i:03d}.png").unlink()
        (root / f"ground_truth/hole/{i:03d}_mask.png").unlink()


def no_masks(root):
    shutil.rmtree(root / "ground_truth")


def empty_masks(root):
    for path in (root / "ground_truth/hole").iterdir():
        cv2.imwrite(str(path), np.zeros((32, 32), np.uint8))


def full_masks(root):
    for path in (root / "ground_truth/hole").iterdir():
        cv2.imwrite(str(path), np.full((32, 32), 255, np.uint8))


def mask_on_good(root):
    trees.mask(root / "ground_truth/good/000_mask.png", size=(32, 32))


@pytest.mark.parametrize(
    ("spoil", "more", "told"),
    [
        (no_defect, [], "no defective picture"),
        (one_picture, [], r"has one picture.*dataset\.defects=\[nut/test/hole/000\.png\]"),
        (no_masks, [], "has a mask; at least one is needed"),
        (empty_masks, [], "is empty: draw the defect"),
        (full_masks, [], "covers 100% of the picture"),
        (mask_on_good, [], r"good/000\.png.*normal, but its mask is not empty"),
        (lambda root: None, ["dataset.defects=[nut/test/good/000.png]"], "no defective picture"),
        (lambda root: None, ["dataset.defects=9"], r"at most dataset\.defects=2"),
        (lambda root: None, ["dataset.defects=null"], r"set dataset\.defects=third"),
        (lambda root: None, ["backbone=none"], "set backbone=bundled"),
        (lambda root: None, ["model.use.data=synthesis"], "set synthesis=draem"),
        (lambda root: None, ["+model.masks.rules.hle.place=edge"], "no such type was seen"),
        (lambda root: None, ["+model.masks.rules.hole.place=top"], r"rules\.hole\.place"),
        (lambda root: None, ["model.regions.kind=files"], r"regions\.root is missing"),
        (lambda root: None, ["model.regions.kind=sam"], r"regions\.weights is missing.*features"),
        (lambda root: None, ["model.classifier.network=resnet34"], r"network=bundled"),
        (lambda root: None, ["diffusion=scratch", "model.generate.net=60"], "a multiple of"),
        (lambda root: None, ["diffusion=scratch", "diffusion.prediction=v"], "leave the key out"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_trains(spoil, more, told, tmp_path):
    root = bad(tmp_path, spoil)
    with pytest.raises(UserError, match=told) as caught:
        trained(root, tmp_path / "runs", "model=gaa", *SHRINK, *more)
    assert "\n" not in str(caught.value)


def test_one_named_defect_is_enough(tmp_path):
    root = bad(tmp_path, one_picture)
    folder = trained(
        root,
        tmp_path / "runs",
        "model=gaa",
        *SHRINK,
        "dataset.defects=[nut/test/hole/000.png]",
        "until=filter",
    )
    assert len((folder / "stages/filter/manifest.jsonl").read_text().splitlines()) == 3
