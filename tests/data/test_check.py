"""What is wrong on disk is found, named and answered with a remedy."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adbench.data.catalogue import CATALOGUE, Counts
from adbench.data.check import check_samples, count_table, counted, told
from adbench.data.layouts import get_layout
from adbench.errors import UserError
from tests.data import trees

BROKEN = "bottle/test/broken"
TRUTH = "bottle/ground_truth/broken"


def _findings(root: Path, *, full: bool = False) -> list[tuple[str, str, str]]:
    samples = get_layout("mvtec").read(root, "bottle")
    found = check_samples(samples, full=full)
    return [(f.level, f.path.relative_to(root).as_posix(), f.message) for f in found]


def _one(root: Path, *, full: bool = False) -> tuple[str, str, str]:
    (found,) = _findings(root, full=full)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.mvtec(tmp_path)


@pytest.mark.parametrize("full", [False, True])
def test_nothing_is_found_where_nothing_is_wrong(root, full):
    assert _findings(root, full=full) == []


def test_truncated_image_is_found_from_its_end(root):
    path = root / "bottle/train/good/000.png"
    path.write_bytes(path.read_bytes()[:-30])
    level, where, message = _one(root)
    assert (level, where) == ("error", "bottle/train/good/000.png")
    assert "cannot be read" in message


def test_text_named_png(root):
    (root / BROKEN / "000.png").write_text("no picture")
    assert "not an image" in _one(root)[2]


def test_mask_of_wrong_size(root):
    trees.mask(root / TRUTH / "000_mask.png", size=(4, 6))
    level, where, message = _one(root)
    assert (level, where) == ("error", f"{TRUTH}/000_mask.png")
    assert "6x4" in message
    assert "8x8" in message


def test_missing_mask_and_orphan_mask(root):
    (root / TRUTH / "000_mask.png").rename(root / TRUTH / "999_mask.png")
    assert [finding[:2] for finding in _findings(root)] == [
        ("warning", TRUTH),
        ("warning", f"{BROKEN}/000.png"),
    ]


def test_masks_none_of_which_fits_are_refused(root):
    for path in list((root / TRUTH).iterdir()):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(UserError, match=r"none of the 2 masks .* x000_mask\.png.* 000\.png"):
        _findings(root)


def test_empty_mask_is_found_by_decoding(root):
    trees.mask(root / TRUTH / "000_mask.png", value=0)
    assert _findings(root) == []
    level, where, message = _one(root, full=True)
    assert (level, where) == ("warning", f"{TRUTH}/000_mask.png")
    assert message.startswith("empty")


@pytest.mark.parametrize("full", [False, True])
def test_normal_image_with_a_mask_is_an_error(root, full):
    trees.mask(root / "bottle/ground_truth/good/000.png", value=0)
    assert _findings(root, full=full) == []
    trees.mask(root / "bottle/ground_truth/good/000.png", value=1)
    assert _one(root, full=full)[:2] == ("error", "bottle/test/good/000.png")


def test_equal_files_in_train_and_test(root):
    shutil.copy(root / "bottle/train/good/001.png", root / "bottle/test/good/000.png")
    level, where, message = _one(root)
    assert (level, where) == ("warning", "bottle/test/good/000.png")
    assert "is the same file as bottle/train/good/001.png" in message


def test_equal_pixels_in_unequal_files(root):
    with Image.open(root / "bottle/train/good/001.png") as image:
        image.save(root / "bottle/test/good/000.bmp")
    (root / "bottle/test/good/000.png").unlink()
    assert _findings(root) == []
    assert "shows the same pixels as" in _one(root, full=True)[2]


def test_errors_come_first(root):
    (root / TRUTH / "000_mask.png").unlink()
    (root / "bottle/train/good/002.png").write_text("")
    assert [level for level, _, _ in _findings(root)] == ["error", "warning"]


def test_missing_file_of_a_csv_is_named(tmp_path):
    (tmp_path / "samples.csv").write_text("image\ngone.png\n")
    samples = get_layout("csv", name="x").read(tmp_path, "x")
    (finding,) = check_samples(samples, full=True)
    assert (finding.level, finding.path.name) == ("error", "gone.png")
    assert "does not exist" in finding.message


def test_loco_orphan_channels(tmp_path):
    trees.loco(tmp_path)
    trees.mask(tmp_path / "pushpins/ground_truth/logical_anomalies/007/000.png")
    found = check_samples(get_layout("mvtec_loco").read(tmp_path, "pushpins"), full=False)
    assert [finding.path.name for finding in found] == ["007"]


def test_masks_beside_images_are_no_orphans(tmp_path):
    trees.image(tmp_path / "a.png")
    trees.image(tmp_path / "b.png")
    trees.mask(tmp_path / "b_mask.png")
    (tmp_path / "samples.csv").write_text("image,mask\na.png,\nb.png,b_mask.png\n")
    assert check_samples(get_layout("csv", name="x").read(tmp_path, "x"), full=True) == []


def test_counts_stand_beside_the_published_ones(root):
    samples = get_layout("mvtec").read(root, "bottle")
    assert counted(samples) == {"bottle": Counts(3, 0, 2, 2)}
    _, rows = count_table("mvtec", samples)
    assert rows == [["bottle", "3", "0", "2", "2", "209/0/20/63", "differs"]]
    assert count_table("own", samples)[1][0][-2:] == ["-", ""]


@pytest.mark.shared
def test_complete_photographs_have_the_published_counts(shared):
    root = shared / "data/mvtec"
    for category in ("bottle", "pill"):
        samples = get_layout("mvtec").read(root, category)
        assert count_table("mvtec", samples)[1][0][-1] == "as published"


@pytest.mark.shared
def test_quick_check_of_four_hundred_images_takes_under_a_second(shared):
    samples = get_layout("mvtec").read(shared / "data/mvtec", "pill")
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert check_samples(samples, full=False) == []
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_published_counts_add_up():
    for known in CATALOGUE.values():
        if known.totals and known.counts:
            columns = zip(
                *[(c.train, c.val, c.good, c.bad) for c in known.counts.values()], strict=True
            )
            assert Counts(*map(sum, columns)) == known.totals, known.name


# what is told, and how


def _told(root: Path, **keys: object) -> list[tuple[str, str]]:
    return told(check_samples(get_layout("mvtec").read(root, "bottle"), full=True, **keys))


def test_one_line_a_kind_with_a_count_and_three_examples(root):
    for number in range(2, 7):
        trees.image(root / BROKEN / f"{number:03d}.png")
    findings = check_samples(get_layout("mvtec").read(root, "bottle"), full=False)
    ((level, line),) = told(findings)
    assert level == "warning"
    assert line.startswith(f"5 files in {root / BROKEN}: defective, but has no mask")
    assert "(002.png, 003.png, 004.png, ...); add a mask" in line
    assert len(told(findings, every=True)) == 5


def test_a_set_without_any_mask_is_meant_so_and_only_noted(tmp_path):
    for name in ("train/good/0", "train/good/1", "test/good/2", "test/hole/3"):
        trees.image(tmp_path / "bottle" / f"{name}.png")
    found = check_samples(get_layout("mvtec").read(tmp_path, "bottle"), full=False)
    assert [(f.level, f.path.name) for f in found] == [("note", "3.png")]


def test_damage_of_many_files_is_one_kind(root):
    for number in range(3):
        path = root / f"bottle/train/good/{number:03d}.png"
        data = bytearray(path.read_bytes())
        data[-20 - number] ^= 1
        path.write_bytes(data[: len(data) - number])
    assert sum(level == "error" for level, _ in _told(root)) <= 2


def test_flat_good_pictures_are_told(root):
    for name, value in (("train/good/000", 0), ("test/broken/000", 1), ("test/good/001", 130)):
        noise = np.random.default_rng(value).integers(0, 3, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise + np.uint8(value)).save(root / f"bottle/{name}.png")
    ((level, line),) = _told(root)
    assert level == "warning"
    assert line.startswith("2 files")
    assert "shows nothing" in line


def _photograph(seed: int) -> np.ndarray:
    """A part as a camera sees it: the same form each time, with grain, 200 x 300."""
    y, x = np.mgrid[:200, :300]
    form = 110 + 60 * np.sin(x / 17) * np.cos(y / 23)
    grain = np.random.default_rng(seed).normal(0, 12, (200, 300))
    return (form + grain).clip(0, 255).astype(np.uint8)


def test_near_duplicates_between_good_and_defective_are_told(root):
    for seed, name in enumerate(("train/good/000", "train/good/001", "test/good/000")):
        Image.fromarray(_photograph(seed)).save(root / f"bottle/{name}.png")
    Image.fromarray(_photograph(7)).save(root / BROKEN / "001.png")
    stored_anew = Image.fromarray(_photograph(1)).resize((270, 180), Image.Resampling.BOX)
    (root / BROKEN / "000.png").unlink()
    stored_anew.save(root / BROKEN / "000.jpg", quality=80)
    trees.mask(root / TRUTH / "000_mask.png", size=(180, 270))
    trees.mask(root / TRUTH / "001_mask.png", size=(200, 300))
    lines = [line for _, line in _told(root) if "nearly" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{root / BROKEN / '000.jpg'}: defective, but nearly the same")
    assert "bottle/train/good/001.png" in lines[0]


def test_sizes_and_shapes_get_a_word(root):
    trees.image(root / "bottle/train/good/000.png", size=(40, 6000))
    lines = [line for _, line in _told(root)]
    assert any("sizes of the pictures of bottle differ: 6 of 8x8, 1 of 6000x40" in x for x in lines)
    assert any("dataset.fit=pad" in line and "6000x40" in line for line in lines)
    assert not any("dataset.fit" in line for _, line in _told(root, fit="pad"))
    assert not any("dataset.fit=pad" in line for _, line in _told(root, size=(4, 600))[:1])


def test_unlabelled_pictures_are_counted(root):
    samples = get_layout("pictures", name="x").read(root, "x")
    header, rows = count_table("pictures", samples)
    assert rows == [["x", "0", "0", "0", "0", "9", "-", ""]]
    assert header[5] == "unlabelled"
