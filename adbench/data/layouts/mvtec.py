"""Layout M: ``CAT/train/good``, ``CAT/test/DEFECT``, ``CAT/ground_truth/DEFECT``.

Read by MVTec AD, MPDD, BTAD, WFDD, the demo and whoever copies MVTec's folders.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from adbench.data.images import images_in
from adbench.data.layouts.base import (
    GOOD,
    check_category,
    check_name,
    is_normal_name,
    ordered,
    subfolders,
)
from adbench.data.layouts.pairing import check_no_masks_beside, check_paired, paired_masks
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

SPLIT_FOLDERS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


class MVTecLayout:
    """Folders as MVTec AD has them; ``good``, ``ok`` and ``normal`` are normal, masks optional.

    A category may have only ``test``; a root that holds nothing but ``test`` is one category.

    Args:
        inner: folders below the root that may hold the categories instead of the root itself
            (``BTech_Dataset_transformed`` in BTAD's archive).
    """

    def __init__(self, inner: tuple[str, ...] = ()) -> None:
        self.inner = tuple(check_name(name, "dataset.options.inner") for name in inner)

    def base(self, root: Path) -> Path:
        """Return the folder that holds the categories: the root or one of ``inner``."""
        for folder in (root, *(root / name for name in self.inner)):
            if _categories(folder):
                return folder
        return root

    def categories(self, root: Path) -> list[str]:
        base = self.base(root)
        found = _categories(base)
        if found:
            return found
        if is_category(root) and not (root / "train").is_dir():
            return [root.name]
        if is_category(root):
            raise UserError(
                f"{root} is itself a category: set dataset.root={root.parent} and "
                f"dataset.category={root.name}"
            )
        raise UserError(f"no CATEGORY/train or CATEGORY/test folder below {root}")

    def read(self, root: Path, category: str) -> list[Sample]:
        base = self.base(root)
        check_category(category, self.categories(root), base)
        folder = base / category if _categories(base) else base
        return read_category(folder, category, root)


def is_category(folder: Path) -> bool:
    """Whether ``folder`` holds a training or a test split."""
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def read_category(folder: Path, category: str, root: Path) -> list[Sample]:
    """Return the samples of one category folder in layout M.

    Raises:
        UserError: no normal training image although there is a training split, or no image.
    """
    samples: list[Sample] = []
    for name, split in SPLIT_FOLDERS.items():
        samples += _read_split(folder, name, split, category, root)
    if (folder / "train").is_dir() and not any(_trains(sample) for sample in samples):
        raise UserError(f"no normal image in {folder / 'train'}: expected in {_GOOD_FOLDERS}")
    if not samples:
        raise UserError(f"no image in {folder}: expected in train/good and test/DEFECT")
    return ordered(samples)


_GOOD_FOLDERS = "a folder good, ok or normal there"


def _categories(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if is_category(folder / name)]


def _trains(sample: Sample) -> bool:
    return sample.split == "train" and sample.label == NORMAL


def _read_split(folder: Path, name: str, split: str, category: str, root: Path) -> list[Sample]:
    found = {defect: images_in(folder / name / defect) for defect in subfolders(folder / name)}
    pairs = _masks(folder / "ground_truth", found) if split == "test" else {}
    samples = []
    for defect, images in found.items():
        check_no_masks_beside(images, f"move them to {folder / 'ground_truth' / defect}")
        normal = is_normal_name(defect)
        for image in images:
            samples.append(
                Sample(
                    image=image,
                    label=NORMAL if normal else ANOMALOUS,
                    category=category,
                    defect=GOOD if normal else defect,
                    split=split,
                    masks=(pairs[image],) if image in pairs else (),
                    root=root,
                )
            )
    return samples


def _masks(truth: Path, images: Mapping[str, list[Path]]) -> dict[Path, Path]:
    """Return image -> mask: from ``ground_truth/DEFECT``, for other defects from above it."""
    pairs: dict[Path, Path] = {}
    own_folder = [defect for defect in images if (truth / defect).is_dir()]
    shared = [d for d in images if d not in own_folder and not is_normal_name(d)]
    for group in [*([defect] for defect in own_folder), shared]:
        pictures = [image for defect in group for image in images[defect]]
        masks = images_in(truth if group is shared else truth / group[0])
        own = paired_masks(pictures, masks, key=f"sort the masks into {truth}/DEFECT")
        if not all(map(is_normal_name, group)):
            check_paired(own, pictures, masks, key=f"rename them, or take {truth} away")
        pairs |= own
    return pairs
