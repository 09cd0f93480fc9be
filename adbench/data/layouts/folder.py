"""Own folders: normal images, and where they exist abnormal ones, masks and normal test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from adbench.data.images import images_in
from adbench.data.layouts.base import GOOD, check_category, masks_by_stem, ordered, paired_mask
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

Folders = str | Sequence[str] | None


class FolderLayout:
    """One category made of folders named by the user, relative to the root.

    A mask is looked for by stem: in the mask folder of its defect where ``masks`` are as many as
    ``abnormal``, else in ``masks/DEFECT`` and in ``masks``.

    Args:
        normal: folder or folders of normal images to train on.
        abnormal: folder or folders of defective test images; the folder's name is the defect's.
        masks: folder or folders of masks.
        normal_test: folder or folders of normal test images; None draws ``test_fraction`` of
            the normals by ``seed``.
        test_fraction: share of normals drawn for the test set, at least one image.
        seed: fixes who is drawn; independent of the run's seed, so that runs compare.
        name: the category's name; None for the root folder's name.
    """

    def __init__(
        self,
        normal: Folders = "good",
        abnormal: Folders = None,
        masks: Folders = None,
        normal_test: Folders = None,
        test_fraction: float = 0.2,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self.normal, self.abnormal = _listed(normal), _listed(abnormal)
        self.masks, self.normal_test = _listed(masks), _listed(normal_test)
        self.test_fraction, self.seed, self.name = test_fraction, seed, name
        if not self.normal:
            raise UserError("dataset.options.normal: a folder of normal images is needed")
        if not 0 <= test_fraction < 1:
            raise UserError(f"dataset.options.test_fraction={test_fraction}: a fraction in [0, 1)")

    def categories(self, root: Path) -> list[str]:
        return [self.name or root.name]

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        normals = self._normals(root, category, self.normal, "normal", "train")
        if self.normal_test:
            normals += self._normals(root, category, self.normal_test, "normal_test", "test")
        else:
            normals = self._with_test_share(normals)
        return ordered([*normals, *self._abnormals(root, category)])

    def _normals(
        self, root: Path, category: str, folders: tuple[str, ...], key: str, split: str
    ) -> list[Sample]:
        return [
            Sample(image, NORMAL, category, GOOD, split, root=root)
            for name in folders
            for image in _images(root / name, key)
        ]

    def _with_test_share(self, normals: list[Sample]) -> list[Sample]:
        if self.test_fraction == 0 or len(normals) < 2:
            return normals
        count = max(1, round(self.test_fraction * len(normals)))
        drawn = np.random.default_rng(self.seed).permutation(len(normals))[:count]
        chosen = ordered(normals)
        for position in drawn.tolist():
            chosen[position] = replace(chosen[position], split="test")
        return chosen

    def _abnormals(self, root: Path, category: str) -> list[Sample]:
        samples = []
        for position, name in enumerate(self.abnormal):
            folder = root / name
            masks = self._masks(root, folder.name, position)
            for image in _images(folder, "abnormal"):
                mask = paired_mask(image, masks)
                samples.append(
                    Sample(image, ANOMALOUS, category, folder.name, "test", mask, root=root)
                )
        return samples

    def _masks(self, root: Path, defect: str, position: int) -> dict[str, list[Path]]:
        for name in self.masks:
            if not (root / name).is_dir():
                raise UserError(f"{root / name} (dataset.options.masks) does not exist")
        if len(self.masks) == len(self.abnormal) > 1:
            return masks_by_stem(root / self.masks[position])
        found: dict[str, list[Path]] = {}
        for name in self.masks:
            own = root / name / defect
            for stem, paths in masks_by_stem(own if own.is_dir() else root / name).items():
                found.setdefault(stem, []).extend(paths)
        return found


def _listed(folders: Folders) -> tuple[str, ...]:
    if folders is None:
        return ()
    return (folders,) if isinstance(folders, str) else tuple(folders)


def _images(folder: Path, key: str) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder} (dataset.options.{key}) does not exist")
    found = images_in(folder)
    if not found:
        raise UserError(f"no image in {folder} (dataset.options.{key})")
    return found
