"""The demo data set: equal by seed, exact masks, not solved by raw pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from adbench.data.check import check_samples
from adbench.data.demo import CATEGORIES, box, ensure_demo
from adbench.data.demo.box import LOGICAL
from adbench.data.demo.factory import draw
from adbench.data.images import read_image
from adbench.data.layouts import get_layout
from adbench.errors import UserError

SMALL = {"size": 64, "train": 3, "good": 2, "defective": 1}
DEFECTS = [(category, defect) for category, (_, names) in CATEGORIES.items() for defect in names]


def _files(folder):
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_equal_options_give_equal_files_once(tmp_path):
    first = ensure_demo(tmp_path / "a", **SMALL)
    second = ensure_demo(tmp_path / "b", **SMALL)
    assert _files(first) == _files(second)
    before = first.stat().st_mtime_ns
    assert ensure_demo(tmp_path / "a", **SMALL) == first
    assert first.stat().st_mtime_ns == before
    assert [path.name for path in (tmp_path / "a").iterdir()] == [first.name]


def test_seed_and_difficulty_give_another_folder(tmp_path):
    folders = {
        ensure_demo(tmp_path, **SMALL),
        ensure_demo(tmp_path, **SMALL, seed=1),
        ensure_demo(tmp_path, **SMALL, difficulty=0.9),
    }
    assert len(folders) == 3


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("adbench.data.demo.factory._save", stop)
    with pytest.raises(KeyboardInterrupt):
        ensure_demo(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_layout_reads_what_was_asked_for_and_the_check_finds_no_fault(tmp_path):
    layout = get_layout("demo", **SMALL)
    assert layout.categories(tmp_path) == ["box", "metal", "weave"]
    for category, (_, defects) in CATEGORIES.items():
        samples = layout.read(tmp_path, category)
        found = [sample.defect for sample in samples if sample.split == "test"]
        assert sorted(found) == sorted(["good"] * 2 + list(defects))
        assert sum(sample.split == "train" for sample in samples) == 3
        assert check_samples(samples, full=True) == []


@pytest.mark.parametrize(
    "options", [{"size": 10}, {"difficulty": 1.5}, {"train": 0}, {"defective": -1}]
)
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(UserError, match=r"dataset\.options"):
        ensure_demo(tmp_path, **(SMALL | options))


def test_structural_and_logical_defects_are_all_there():
    names = {defect for _, defect in DEFECTS}
    assert names == {
        "scratch", "hole", "stain", "thread", "dent", "missing", "surplus", "misplaced"
    }  # fmt: skip


@pytest.mark.parametrize(("category", "defect"), DEFECTS)
@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_mask_marks_a_defect_of_sensible_size(category, defect, difficulty):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        image, mask = draw(category, defect, size=128, difficulty=difficulty, rng=rng)
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert 0.001 < mask.mean() < 0.2
        assert 60 < image.mean() < 190


@pytest.mark.parametrize(("category", "defect"), [d for d in DEFECTS if d[1] not in LOGICAL])
def test_difficulty_shrinks_structural_defects(category, defect):
    areas = [
        np.mean(
            [
                draw(category, defect, size=128, difficulty=d, rng=np.random.default_rng(s))[
                    1
                ].mean()
                for s in range(6)
            ]
        )
        for d in (0.0, 1.0)
    ]
    assert areas[1] < areas[0]


def test_misplaced_marks_the_piece_and_the_gap_it_left():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        _, mask = draw("box", "misplaced", size=256, difficulty=0.3, rng=rng)
        regions, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        assert regions - 1 == 2


def _filling(size, defect, seed):
    rng = np.random.default_rng(seed)
    return draw("box", defect, size=size, difficulty=0.3, rng=rng, fillings=2)


def test_with_two_fillings_logical_defects_exchange_whole_pieces():
    full, short = len(box.NOMINAL), len(box.SHORT)
    assert (full, short) == (14, 8)
    for seed in range(6):
        missing, surplus = (_filling(256, name, seed)[1] for name in ("missing", "surplus"))
        for mask in (missing, surplus):
            pieces, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            assert pieces - 1 in (1, 2)  # two washers, two caps, a bolt or the bearing
        moved, _ = cv2.connectedComponents(_filling(256, "misplaced", seed)[1].astype(np.uint8))
        assert moved - 1 in (1, 2)  # neighbouring pockets of caps nearly touch


def test_with_two_fillings_every_pocket_is_normal_full_and_empty():
    pockets = [(int(item.x), int(item.y)) for item in box.NOMINAL if item not in box.SHORT]
    pictures = np.stack([_filling(256, None, seed)[0] for seed in range(8)]).astype(float)
    for x, y in pockets:
        spread = pictures[:, y - 22 : y + 22, x - 22 : x + 22].std((1, 2, 3))
        assert np.ptp(spread) > 10, (x, y)


def test_the_box_tells_logical_from_structural(tmp_path):
    samples = get_layout("demo", **SMALL).read(tmp_path, "box")
    kinds = {sample.defect: sample.kind for sample in samples}
    assert kinds == {"good": None} | dict.fromkeys(box.LOGICAL, "logical") | dict.fromkeys(
        box.STRUCTURAL, "structural"
    )
    with pytest.raises(UserError, match="fillings"):
        ensure_demo(tmp_path, **SMALL, fillings=3)


def _gray(samples):
    shrunk = [
        cv2.resize(
            cv2.cvtColor(read_image(sample.image), cv2.COLOR_RGB2GRAY),
            (64, 64),
            interpolation=cv2.INTER_AREA,
        )
        for sample in samples
    ]
    return np.stack(shrunk).reshape(len(samples), -1).astype(np.float32)


@pytest.mark.slow
def test_raw_pixels_do_not_solve_it(tmp_path):
    folder = ensure_demo(tmp_path)
    for category in CATEGORIES:
        samples = get_layout("mvtec").read(folder, category)
        tests = [sample for sample in samples if sample.split == "test"]
        label = [sample.label for sample in tests]
        train, test = _gray([s for s in samples if s.split == "train"]), _gray(tests)
        apart = np.abs(test[:, None] - train[None])
        scores = {
            "nearest whole image": np.sqrt((apart**2).sum(axis=2)).min(axis=1),
            "nearest by largest difference": apart.max(axis=2).min(axis=1),
            "largest nearest difference of a pixel": apart.min(axis=1).max(axis=1),
            "mean brightness": np.abs(test.mean(axis=1) - train.mean()),
            "darkest pixel": -test.min(axis=1),
            "brightest pixel": test.max(axis=1),
        }
        for name, score in scores.items():
            assert roc_auc_score(label, score) < 0.8, (category, name)
