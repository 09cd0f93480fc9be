"""Every layout is read as it lies on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adbench.data.images import image_size, read_mask
from adbench.data.layouts import get_layout
from adbench.data.layouts.mvtec_loco import loco_channels, read_defect_rules
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from adbench.errors import UserError
from tests.data import trees


def _counts(samples: list[Sample]) -> Counter:
    return Counter((sample.split, sample.defect) for sample in samples)


def _by_name(samples: list[Sample], part: str) -> Sample:
    (found,) = [sample for sample in samples if part in sample.relative]
    return found


def test_layout_and_option_names_are_checked():
    with pytest.raises(UserError, match=r"no layout 'mvtek'; did you mean 'mvtec'\?"):
        get_layout("mvtek")
    with pytest.raises(
        UserError, match=r"no key 'subse' in dataset.options; did you mean 'subset'\?"
    ):
        get_layout("mad_man", subse="all")


# mvtec


def test_mvtec_counts_labels_and_order(tmp_path):
    samples = get_layout("mvtec").read(trees.mvtec(tmp_path), "bottle")
    assert _counts(samples) == {("train", "good"): 3, ("test", "good"): 2, ("test", "broken"): 2}
    assert [s.relative for s in samples] == sorted(s.relative for s in samples)
    assert all((s.label == NORMAL) == (s.defect == "good") for s in samples)
    assert all(s.root == tmp_path and s.category == "bottle" for s in samples)


def test_mvtec_pairs_masks_by_stem_whatever_lies_beside_them(tmp_path):
    trees.mvtec(tmp_path)
    truth = tmp_path / "bottle/ground_truth/broken"
    trees.mask(truth / "0000_mask.png")  # an orphan that sorts first
    (truth / "001_mask.png").rename(truth / "001.PNG")
    samples = get_layout("mvtec").read(tmp_path, "bottle")
    assert _by_name(samples, "broken/000").masks == (truth / "000_mask.png",)
    assert _by_name(samples, "broken/001").masks == (truth / "001.PNG",)


def test_mvtec_without_masks(tmp_path):
    trees.mvtec(tmp_path)
    for path in (tmp_path / "bottle/ground_truth/broken").iterdir():
        path.unlink()
    samples = get_layout("mvtec").read(tmp_path, "bottle")
    assert all(sample.masks == () for sample in samples)
    assert sum(sample.label for sample in samples) == 2


def test_two_masks_of_one_image_are_refused_naming_both(tmp_path):
    trees.mvtec(tmp_path)
    trees.mask(tmp_path / "bottle/ground_truth/broken/000.bmp")
    with pytest.raises(UserError, match=r"000\.bmp and .*000_mask\.png"):
        get_layout("mvtec").read(tmp_path, "bottle")


@pytest.mark.parametrize("name", ["ok", "normal", "Good"])
def test_mvtec_other_names_of_good(tmp_path, name):
    trees.mvtec(tmp_path)
    for split in ("train", "test"):
        (tmp_path / "bottle" / split / "good").rename(tmp_path / "bottle" / split / name)
    samples = get_layout("mvtec").read(tmp_path, "bottle")
    assert Counter(s.defect for s in samples) == {"good": 5, "broken": 2}


def test_normals_only(tmp_path):
    trees.image(tmp_path / "bottle/train/good/0.png")
    assert _counts(get_layout("mvtec").read(tmp_path, "bottle")) == {("train", "good"): 1}


def test_dot_files_and_texts_are_no_images(tmp_path):
    trees.mvtec(tmp_path)
    for name in ("._000.png", "readme.txt", "Thumbs.db"):
        (tmp_path / "bottle/train/good" / name).touch()
    assert len(get_layout("mvtec").read(tmp_path, "bottle")) == 7


def test_empty_training_folder_is_named(tmp_path):
    trees.mvtec(tmp_path)
    for path in (tmp_path / "bottle/train/good").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no normal image in .*bottle/train"):
        get_layout("mvtec").read(tmp_path, "bottle")


def test_wrong_category_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"'botle'.*did you mean 'bottle'"):
        get_layout("mvtec").read(trees.mvtec(tmp_path), "botle")


def test_root_one_level_too_deep_is_answered_with_the_right_one(tmp_path):
    trees.mvtec(tmp_path)
    with pytest.raises(UserError, match=rf"dataset\.root={tmp_path} .*dataset\.category=bottle"):
        get_layout("mvtec").categories(tmp_path / "bottle")


def test_root_without_categories(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(UserError, match="no CATEGORY/train"):
        get_layout("mvtec").categories(tmp_path)


# mvtec_loco


def test_loco_has_a_validation_split_and_channels(tmp_path):
    samples = get_layout("mvtec_loco").read(trees.loco(tmp_path), "pushpins")
    assert _counts(samples) == {
        ("train", "good"): 1,
        ("val", "good"): 1,
        ("test", "good"): 1,
        ("test", "logical_anomalies"): 1,
        ("test", "structural_anomalies"): 1,
    }
    logical = _by_name(samples, "logical")
    assert [path.name for path in logical.masks] == ["000.png", "001.png"]
    assert read_mask(logical.masks, (8, 8)).sum() == 24  # three rows: the channels overlap


def test_loco_channels_carry_their_rules(tmp_path):
    samples = get_layout("mvtec_loco").read(trees.loco(tmp_path), "pushpins")
    config = tmp_path / "pushpins/defects_config.json"
    first, second = loco_channels(_by_name(samples, "logical"), config)
    assert (first.rule.defect, second.rule.defect) == ("1_additional_pushpin", "missing_pushpin")
    assert (first.mask.sum(), second.mask.sum()) == (16, 24)
    assert loco_channels(_by_name(samples, "test/good"), config) == []


@pytest.mark.parametrize(
    ("value", "match"), [(7, "no defect of pixel value 7"), (0, r"values \[\]")]
)
def test_loco_unknown_value_is_an_error(tmp_path, value, match):
    samples = get_layout("mvtec_loco").read(trees.loco(tmp_path), "pushpins")
    sample = _by_name(samples, "structural")
    trees.mask(sample.masks[0], value=value)
    with pytest.raises(UserError, match=match):
        loco_channels(sample, tmp_path / "pushpins/defects_config.json")


def test_loco_missing_or_broken_config(tmp_path):
    with pytest.raises(UserError, match="no sPRO"):
        read_defect_rules(tmp_path / "defects_config.json")
    (tmp_path / "defects_config.json").write_text('[{"defect_name": "a"}]')
    with pytest.raises(UserError, match="pixel_value"):
        read_defect_rules(tmp_path / "defects_config.json")


# mvtec_ad2


def test_ad2_groups_by_light_and_keeps_scenes(tmp_path):
    samples = get_layout("mvtec_ad2").read(trees.ad2(tmp_path), "vial")
    assert _counts(samples) == {
        ("train", "good"): 1,
        ("val", "good"): 1,
        ("test", "good"): 3,
        ("test", "bad"): 3,
    }
    bad = [sample for sample in samples if sample.defect == "bad"]
    assert {sample.group for sample in bad} == {"regular", "overexposed", "shift_1"}
    assert {sample.scene for sample in bad} == {"vial/bad/000"}
    assert all(sample.masks[0].name == f"{sample.image.stem}_mask.png" for sample in bad)


@pytest.mark.parametrize(("test", "light"), [("private", "regular"), ("private_mixed", "mixed")])
def test_ad2_private_images_have_no_label(tmp_path, test, light):
    samples = get_layout("mvtec_ad2", test=test).read(trees.ad2(tmp_path), "vial")
    (private,) = [sample for sample in samples if sample.split == "test"]
    assert (private.label, private.group, private.masks) == (UNKNOWN, light, ())


def test_ad2_test_set_is_checked():
    with pytest.raises(UserError, match=r"test=privat.*did you mean 'private'"):
        get_layout("mvtec_ad2", test="privat")


# visa, pcb_bank


def test_visa_as_published(tmp_path):
    layout = get_layout("visa")
    assert layout.categories(trees.visa(tmp_path)) == ["candle"]
    samples = layout.read(tmp_path, "candle")
    assert _counts(samples) == {("train", "good"): 2, ("test", "good"): 1, ("test", "bad"): 2}
    bad = _by_name(samples, "Anomaly/001")
    assert read_mask(bad.masks, image_size(bad.image)).sum() == 16  # class ids 1, 2: not empty


@pytest.mark.parametrize("inner", ["", "1cls", "visa_pytorch"])
def test_visa_converted(tmp_path, inner):
    category = tmp_path / inner / "candle"
    trees.image(category / "train/ok/000.JPG")
    trees.image(category / "test/ok/000.JPG")
    trees.image(category / "test/bad/000.JPG")
    trees.mask(category / "ground_truth/bad/000.png")
    layout = get_layout("visa")
    assert layout.categories(tmp_path) == ["candle"]
    samples = layout.read(tmp_path, "candle")
    assert _counts(samples) == {("train", "good"): 1, ("test", "good"): 1, ("test", "bad"): 1}
    assert len(_by_name(samples, "bad").masks) == 1


def test_visa_neither_published_nor_converted(tmp_path):
    with pytest.raises(UserError, match=r"split_csv/1cls\.csv .*converted"):
        get_layout("visa").categories(tmp_path)


def test_pcb_bank_reads_its_own_split_file(tmp_path):
    samples = get_layout("pcb_bank").read(trees.visa(tmp_path, "1cls_clear.csv"), "candle")
    assert len(samples) == 5


# btad, mad


def test_btad_keeps_category_03_with_its_bmp_masks(tmp_path):
    layout = get_layout("btad")
    assert layout.categories(trees.btad(tmp_path)) == ["01", "02", "03"]
    for category in ("01", "02", "03"):
        samples = layout.read(tmp_path, category)
        assert _counts(samples) == {("train", "good"): 2, ("test", "good"): 1, ("test", "ko"): 1}
        assert len(_by_name(samples, "ko").masks) == 1
    assert _by_name(samples, "ko").masks[0].suffix == ".bmp"
    assert samples[0].relative.startswith("BTech_Dataset_transformed/03/")


def test_mad_man_trains_on_mvtec_and_groups_by_person(tmp_path):
    root = trees.mad(tmp_path / "mad_man", "MAD-man", ("Person_1", "Person_2"))
    layout = get_layout("mad_man")
    assert layout.categories(root) == ["carpet"]
    samples = layout.read(root, "carpet")
    assert _counts(samples) == {("train", "good"): 3, ("test", "good"): 2, ("test", "bad"): 2}
    assert {s.group for s in samples if s.split == "test"} == {"Person_1", "Person_2"}
    one = get_layout("mad_man", subset="Person_2").read(root, "carpet")
    assert {s.group for s in one if s.split == "test"} == {"Person_2"}


def test_mad_sys_reads_the_papers_four_unless_asked(tmp_path):
    betas = tuple(f"Beta_0.{n}" for n in (1, 3, 5, 7, 9))
    root = trees.mad(tmp_path / "mad_sys", "MAD-sys", betas)
    assert len({s.group for s in get_layout("mad_sys").read(root, "carpet")} - {None}) == 4
    every = get_layout("mad_sys", subset="all").read(root, "carpet")
    assert {s.group for s in every} - {None} == set(betas)
    with pytest.raises(UserError, match=r"no subset 'Beta_0\.2'.*did you mean"):
        get_layout("mad_sys", subset="Beta_0.2").read(root, "carpet")


def test_mad_without_mvtec_says_how_to_name_it(tmp_path):
    root = trees.mad(tmp_path / "mad_man", "MAD-man", ("Person_1",))
    (tmp_path / "mvtec").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"options\.train_root"):
        get_layout("mad_man").read(root, "carpet")
    samples = get_layout("mad_man", train_root=str(tmp_path / "elsewhere")).read(root, "carpet")
    assert _counts(samples)[("train", "good")] == 3


# folder


def _own_folders(root: Path) -> Path:
    for i in range(10):
        trees.image(root / "fine" / f"{i}.jpg")
    for defect in ("cut", "dirt"):
        trees.image(root / defect / "0.jpg")
        trees.mask(root / "masks" / defect / "0.png")
    return root


def test_folder_draws_normal_test_images_by_seed(tmp_path):
    _own_folders(tmp_path)
    layout = get_layout("folder", normal="fine", abnormal=["cut", "dirt"], masks="masks")
    (category,) = layout.categories(tmp_path)
    samples = layout.read(tmp_path, category)
    assert _counts(samples) == {
        ("train", "good"): 8,
        ("test", "good"): 2,
        ("test", "cut"): 1,
        ("test", "dirt"): 1,
    }
    assert all(len(s.masks) == 1 for s in samples if s.label == ANOMALOUS)
    assert layout.read(tmp_path, category) == samples
    other = get_layout("folder", normal="fine", seed=1).read(tmp_path, category)
    drawn = [{s.relative for s in found if s.split == "test"} for found in (samples, other)]
    assert drawn[0] & {f"fine/{i}.jpg" for i in range(10)} != drawn[1]


def test_folder_with_normal_test_images_and_normals_only(tmp_path):
    _own_folders(tmp_path)
    trees.image(tmp_path / "fine_too/0.jpg")
    layout = get_layout("folder", normal="fine", normal_test="fine_too", name="part")
    samples = layout.read(tmp_path, "part")
    assert _counts(samples) == {("train", "good"): 10, ("test", "good"): 1}


def test_folder_mask_folders_one_per_defect(tmp_path):
    _own_folders(tmp_path)
    layout = get_layout(
        "folder", normal="fine", abnormal=["cut", "dirt"], masks=["masks/cut", "masks/dirt"]
    )
    samples = layout.read(tmp_path, tmp_path.name)
    assert _by_name(samples, "dirt").masks == (tmp_path / "masks/dirt/0.png",)


@pytest.mark.parametrize("key", ["normal", "abnormal", "masks", "normal_test"])
def test_folder_that_is_missing_is_named_with_its_key(tmp_path, key):
    _own_folders(tmp_path)
    options = {"normal": "fine", "abnormal": "cut", key: "nowhere"}
    with pytest.raises(UserError, match=rf"nowhere \(dataset\.options\.{key}\)"):
        get_layout("folder", **options).read(tmp_path, tmp_path.name)


# csv


def test_csv_columns_and_defaults(tmp_path):
    for i in range(4):
        trees.image(tmp_path / f"{i}.png")
    for name in ("m0.png", "m1.png"):
        trees.mask(tmp_path / name)
    (tmp_path / "samples.csv").write_text(
        "image,split,label,mask,category,defect,camera\n"
        "0.png,train,0,,screw,,left\n"
        "1.png,,,,screw,,left\n"
        "2.png,,,m0.png;m1.png,screw,cut,right\n"
        "3.png,validation,good,,screw,,right\n"
    )
    samples = get_layout("csv").read(tmp_path, "screw")
    assert [(s.split, s.label, s.defect) for s in samples] == [
        ("train", NORMAL, "good"),
        ("train", NORMAL, "good"),
        ("test", ANOMALOUS, "cut"),
        ("val", NORMAL, "good"),
    ]
    assert [path.name for path in samples[2].masks] == ["m0.png", "m1.png"]
    assert samples[2].tags == {"camera": "right"}
    assert get_layout("csv").read(tmp_path / "samples.csv", "screw") == samples


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("imag,label\na.png,0\n", r"no column 'image'.*did you mean 'imag'"),
        ("image,label\na.png,fine\n", "line 2: label 'fine'"),
        ("image,split\na.png,dev\n", "line 2: split 'dev'"),
        ("image\n", "lists no image"),
    ],
)
def test_csv_faults_are_named_with_their_line(tmp_path, text, match):
    (tmp_path / "samples.csv").write_text(text)
    with pytest.raises(UserError, match=match):
        get_layout("csv").categories(tmp_path)


# what every reader promises


def test_masks_of_non_square_images_keep_height_and_width_apart(tmp_path):
    trees.mvtec(tmp_path)
    trees.image(tmp_path / "bottle/test/broken/000.png", size=(6, 10))
    trees.mask(tmp_path / "bottle/ground_truth/broken/000_mask.png", size=(6, 10))
    sample = _by_name(get_layout("mvtec").read(tmp_path, "bottle"), "broken/000")
    assert read_mask(sample.masks, image_size(sample.image)).shape == (6, 10)


def test_exif_turns_image_and_mask_alike(tmp_path):
    trees.mvtec(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = tmp_path / "bottle/test/broken/000.jpg"
    (tmp_path / "bottle/test/broken/000.png").unlink()
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(image, exif=exif)
    truth = tmp_path / "bottle/ground_truth/broken/000_mask.png"
    pixels = np.zeros((6, 10), np.uint8)
    pixels[0] = 1
    Image.fromarray(pixels).save(truth, exif=exif)
    sample = _by_name(get_layout("mvtec").read(tmp_path, "bottle"), "broken/000")
    mask = read_mask(sample.masks, image_size(sample.image))
    assert mask.shape == (10, 6)
    assert mask[:, -1].all()
    assert mask.sum() == 10
