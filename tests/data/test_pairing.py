"""A mask belongs to one picture, by its name, or the request is refused in one line."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from adbench.data.layouts import get_layout
from adbench.data.layouts.pairing import check_paired, masks_beside, paired_masks
from adbench.errors import UserError
from tests.data import trees


def paths(folder: str, *names: str) -> list[Path]:
    return [Path(folder) / name for name in names]


@pytest.mark.parametrize(
    "name",
    [
        "part 7.png",
        "part 7.bmp",
        "part 7_mask.png",
        "part 7-mask.PNG",
        "part 7_gt.tif",
        "part 7.mask.png",
        "part 7_label.png",
        "part 7_seg.png",
        "part 7_ground_truth.png",
        "mask_part 7.png",
        "GT_part 7.png",
        "PART 7_Mask.png",
    ],
)
def test_common_namings(name):
    images = paths("bad", "part 7.JPG", "part 8.JPG")
    assert paired_masks(images, paths("masks", name)) == {images[0]: Path("masks") / name}


@pytest.mark.parametrize(
    "name", ["part 77.png", "part 7x_mask.png", "7.png", "mask.png", "_mask.png"]
)
def test_other_names_pair_with_nothing(name):
    assert paired_masks(paths("bad", "part 7.JPG"), paths("masks", name)) == {}


def test_names_are_compared_in_one_unicode_form():
    composed, apart = (unicodedata.normalize(form, "Gehäuse") for form in ("NFC", "NFD"))
    (image,) = paths("bad", f"{composed}.png")
    (mask,) = paths("masks", f"{apart}_mask.png")
    assert paired_masks([image], [mask]) == {image: mask}
    (image,), (mask,) = paths("bad", f"{apart}.png"), paths("masks", f"{composed}.png")
    assert paired_masks([image], [mask]) == {image: mask}


def test_a_whole_name_goes_before_its_reading_and_case_before_no_case():
    images = paths("bad", "a.png", "a_mask.png", "b.png", "B.png")
    masks = paths("masks", "a.png", "a_mask.png", "b.png", "B.png")
    assert paired_masks(images, masks) == dict(zip(images, masks, strict=True))


def test_a_mask_of_two_pictures_and_two_masks_of_a_picture_are_refused():
    with pytest.raises(UserError, match=r"masks/0\.png could belong to cut/0\.jpg and to dirt/0\."):
        paired_masks([*paths("cut", "0.jpg"), *paths("dirt", "0.jpg")], paths("masks", "0.png"))
    with pytest.raises(UserError, match=r"two masks for bad/0\.jpg: m/0\.png and m/0_gt\.png"):
        paired_masks(paths("bad", "0.jpg"), paths("m", "0.png", "0_gt.png"))


def test_masks_that_pair_nothing_are_answered_with_what_was_expected():
    images, masks = paths("bad", "a.png", "b.png"), paths("m", "1.png", "2.png", "3.png")
    with pytest.raises(UserError) as caught:
        check_paired({}, images, masks, key="KEY helps")
    for part in ("3 masks in m", "1.png", "2 pictures in bad", "a.png", "S_gt", "KEY helps"):
        assert part in str(caught.value)
    check_paired({}, images, [], key="")
    check_paired({images[0]: masks[0]}, images, masks, key="")


def test_masks_beside_their_pictures():
    beside = paths("bad", "a.png", "a_mask.png", "mask_a.jpg", "b_gt.png", "c_label.png", "c.png")
    assert list(masks_beside(beside)) == beside[1:3]
    assert masks_beside([*paths("x", "a.png"), *paths("y", "a_mask.png")]) == {}


# own folders


def own(root: Path) -> Path:
    for number in range(5):
        trees.image(root / "good" / f"{number}.png")
    for defect in ("cut", "dirt"):
        trees.image(root / defect / "0.png")
    return root


def read(root: Path, **options: object):
    return get_layout("folder", **options).read(root, root.name)


def masks_of(samples) -> dict[str, str]:
    return {s.relative: s.masks[0].relative_to(s.root).as_posix() for s in samples if s.masks}


def test_one_mask_folder_for_two_defects_with_one_stem(tmp_path):
    own(tmp_path)
    trees.mask(tmp_path / "masks/0.png")
    with pytest.raises(
        UserError, match=r"cut/0\.png and to .*dirt/0\.png.*options\.masks=\[FOLDER"
    ):
        read(tmp_path, abnormal=["cut", "dirt"], masks="masks")
    (tmp_path / "dirt/0.png").rename(tmp_path / "dirt/1.png")
    trees.mask(tmp_path / "masks/1_gt.png")
    found = masks_of(read(tmp_path, abnormal=["cut", "dirt"], masks="masks"))
    assert found == {"cut/0.png": "masks/0.png", "dirt/1.png": "masks/1_gt.png"}


def test_mask_folders_of_the_defects_names_in_another_order(tmp_path):
    own(tmp_path)
    for defect in ("cut", "dirt"):
        trees.mask(tmp_path / "m" / defect / "0.png")
    found = masks_of(read(tmp_path, abnormal=["cut", "dirt"], masks=["m/dirt", "m/cut"]))
    assert found == {"cut/0.png": "m/cut/0.png", "dirt/0.png": "m/dirt/0.png"}


def test_mask_folder_that_pairs_nothing_or_is_empty(tmp_path):
    own(tmp_path)
    trees.mask(tmp_path / "masks/other.png")
    with pytest.raises(UserError, match=r"none of the 1 masks.*other\.png.*options\.masks"):
        read(tmp_path, abnormal="cut", masks="masks")
    (tmp_path / "masks/other.png").unlink()
    with pytest.raises(UserError, match=r"no mask in .*masks \(dataset\.options\.masks\)"):
        read(tmp_path, abnormal="cut", masks="masks")
    with pytest.raises(UserError, match=r"options\.masks.*options\.abnormal"):
        read(tmp_path, masks="masks")


def test_masks_among_the_pictures_are_refused_until_that_is_said(tmp_path):
    own(tmp_path)
    trees.mask(tmp_path / "cut/0_mask.png")
    with pytest.raises(
        UserError, match=r"1 files in .*cut .*0_mask\.png of 0\.png.*options\.masks=cut"
    ):
        read(tmp_path, abnormal="cut")
    samples = read(tmp_path, abnormal="cut", masks="cut")
    assert masks_of(samples) == {"cut/0.png": "cut/0_mask.png"}
    assert sum(s.label for s in samples) == 1


def test_masks_among_normal_pictures_are_refused(tmp_path):
    own(tmp_path)
    trees.mask(tmp_path / "good/0_mask.png")
    with pytest.raises(UserError, match="named as masks"):
        read(tmp_path)


def test_a_folder_named_by_two_keys_is_refused(tmp_path):
    own(tmp_path)
    with pytest.raises(UserError, match="named twice"):
        read(tmp_path, abnormal="good")


# MVTec's folders


def test_mvtec_masks_in_one_folder_for_all_defects(tmp_path):
    root = trees.mvtec(tmp_path)
    truth = root / "bottle/ground_truth"
    for path in list((truth / "broken").iterdir()):
        path.rename(truth / path.name)
    (truth / "broken").rmdir()
    samples = get_layout("mvtec").read(root, "bottle")
    assert sum(len(s.masks) for s in samples) == 2
    assert all(s.label for s in samples if s.masks)
    trees.image(root / "bottle/test/dirt/001.png")
    with pytest.raises(UserError, match=r"001_mask\.png could belong to .*ground_truth/DEFECT"):
        get_layout("mvtec").read(root, "bottle")


def test_mvtec_masks_beside_pictures(tmp_path):
    root = trees.mvtec(tmp_path)
    trees.mask(root / "bottle/test/broken/000_gt.png")
    with pytest.raises(UserError, match=r"000_gt\.png of 000\.png.*ground_truth/broken"):
        get_layout("mvtec").read(root, "bottle")


def test_a_mask_that_a_csv_gives_to_two_defective_pictures_is_an_error(tmp_path):
    from adbench.data.check import check_samples

    for name in "ab":
        trees.image(tmp_path / f"{name}.png")
    trees.mask(tmp_path / "m.png")
    (tmp_path / "samples.csv").write_text("image,mask\na.png,m.png\nb.png,m.png\n")
    found = check_samples(get_layout("csv", name="x").read(tmp_path, "x"), full=False)
    assert [(f.level, f.path.name) for f in found] == [("error", "m.png")]
    assert "used once" in found[0].message
