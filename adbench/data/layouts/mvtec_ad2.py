"""MVTec AD 2: several lights per scene, a public test set and two private ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from adbench.data.images import images_in
from adbench.data.layouts.base import (
    GOOD,
    check_category,
    is_normal_name,
    ordered,
    subfolders,
)
from adbench.data.layouts.pairing import check_paired, paired_masks
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from adbench.errors import UserError


class MVTecAD2Layout:
    """``CAT/{train,validation}/good``, ``CAT/test_public/{good,bad}``, ``CAT/test_private*``.

    The light of an image (``NNN_LIGHT.png``) is its group; all lights of one scene share
    ``Sample.scene``. Private images have label -1 and no masks.

    Args:
        test: which test set is read: ``public``, ``private`` or ``private_mixed``.
    """

    def __init__(self, test: Literal["public", "private", "private_mixed"] = "public") -> None:
        self.test = test

    def categories(self, root: Path) -> list[str]:
        found = [
            name
            for name in subfolders(root)
            if (root / name / "train").is_dir() or (root / name / f"test_{self.test}").is_dir()
        ]
        if not found:
            raise UserError(f"no CATEGORY/train or CATEGORY/test_{self.test} folder below {root}")
        return found

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        samples = list(self._samples(root / category, category, root))
        if not any(s.split == "train" for s in samples) and (root / category / "train").is_dir():
            raise UserError(f"no image in {root / category / 'train' / 'good'}")
        if not samples:
            raise UserError(f"no image in {root / category}")
        return ordered(samples)

    def _samples(self, folder: Path, category: str, root: Path) -> Iterator[Sample]:
        for name, split in (("train", "train"), ("validation", "val")):
            for good in filter(is_normal_name, subfolders(folder / name)):
                for image in images_in(folder / name / good):
                    yield _sample(image, NORMAL, category, GOOD, split, root)
        tests = folder / f"test_{self.test}"
        if self.test != "public":
            for image in images_in(tests):
                yield _sample(image, UNKNOWN, category, "unknown", "test", root)
            return
        for good in filter(is_normal_name, subfolders(tests)):
            for image in images_in(tests / good):
                yield _sample(image, NORMAL, category, GOOD, "test", root)
        images, masks = images_in(tests / "bad"), images_in(tests / "ground_truth" / "bad")
        pairs = paired_masks(images, masks)
        check_paired(pairs, images, masks, key="rename the masks")
        for image in images:
            found = (pairs[image],) if image in pairs else ()
            yield _sample(image, ANOMALOUS, category, "bad", "test", root, found)


def _sample(
    image: Path,
    label: int,
    category: str,
    defect: str,
    split: str,
    root: Path,
    masks: tuple[Path, ...] = (),
) -> Sample:
    number, _, light = image.stem.partition("_")
    return Sample(
        image=image,
        label=label,
        category=category,
        defect=defect,
        split=split,
        masks=masks,
        group=light or None,
        scene=f"{category}/{image.parent.name}/{number}",
        root=root,
    )
