"""Own folders: normal images, and where they exist abnormal ones, masks and normal test images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from adbench.config.typed import ProperShare, Seed
from adbench.data.files import shown_path
from adbench.data.images import images_in
from adbench.data.layouts.base import GOOD, check_category, check_name, ordered
from adbench.data.layouts.pairing import (
    check_no_masks_beside,
    check_paired,
    masks_beside,
    paired_masks,
)
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

Folders = str | tuple[str, ...]


class FolderLayout:
    """One category made of folders named by the user, relative to the root.

    Masks are looked for in the mask folder of a defect: the one of its place in the list where
    ``masks`` are as many as ``abnormal`` (of its name, where all names are equal), else in
    ``masks/DEFECT``, else in ``masks``. They may lie among the pictures where ``masks`` names the
    same folder as ``abnormal``. How names pair: ``adbench.data.layouts.pairing``.

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
        abnormal: Folders | None = None,
        masks: Folders | None = None,
        normal_test: Folders | None = None,
        test_fraction: ProperShare = 0.2,
        seed: Seed = 0,
        name: str | None = None,
    ) -> None:
        self.normal, self.abnormal = _listed(normal), _listed(abnormal)
        self.masks, self.normal_test = _listed(masks), _listed(normal_test)
        self.test_fraction, self.seed = test_fraction, seed
        self.name = None if name is None else check_name(name, "dataset.options.name")
        if not self.normal:
            raise UserError("dataset.options.normal: a folder of normal images is needed")
        if self.masks and not self.abnormal:
            raise UserError("dataset.options.masks: masks of what? set dataset.options.abnormal")

    def categories(self, root: Path) -> list[str]:
        return [self.name or check_name(root.name or "own", "dataset.options.name=null")]

    def common_name(self, root: Path) -> str:
        """Return the name of the folder that holds all folders of pictures, ``own`` for ``/``."""
        parts = (*self.normal, *self.abnormal, *self.normal_test)
        above = [os.path.dirname(os.path.abspath(root / part)) for part in parts]
        return os.path.basename(os.path.commonpath(above)) or "own"

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        normals = self._normals(root, category, self.normal, "normal", "train")
        if self.normal_test:
            normals += self._normals(root, category, self.normal_test, "normal_test", "test")
        else:
            normals = self._with_test_share(normals)
        samples = [*normals, *self._abnormals(root, category)]
        _check_once(samples)
        return ordered(samples)

    def _normals(
        self, root: Path, category: str, folders: tuple[str, ...], key: str, split: str
    ) -> list[Sample]:
        images = [image for name in folders for image in _images(root / name, key)]
        check_no_masks_beside(images, "move them to a folder of their own")
        return [Sample(image, NORMAL, category, GOOD, split, root=root) for image in images]

    def _with_test_share(self, normals: list[Sample]) -> list[Sample]:
        if self.test_fraction == 0 or len(normals) < 2:
            return normals
        count = min(max(1, round(self.test_fraction * len(normals))), len(normals) - 1)
        drawn = np.random.default_rng(self.seed).permutation(len(normals))[:count]
        chosen = ordered(normals)
        for position in drawn.tolist():
            chosen[position] = replace(chosen[position], split="test")
        return chosen

    def _abnormals(self, root: Path, category: str) -> list[Sample]:
        places = self._mask_folders(root)
        images = {name: _images(root / name, "abnormal") for name in self.abnormal}
        for name in self.abnormal:
            if os.path.abspath(root / name) in map(os.path.abspath, places.get(name, ())):
                beside = masks_beside(images[name])
                images[name] = [image for image in images[name] if image not in beside]
            advice = f"move them to another folder, or set dataset.options.masks={name}"
            check_no_masks_beside(images[name], advice)
        pairs = self._pairs(root, images, places)
        return [
            Sample(
                image,
                ANOMALOUS,
                category,
                Path(name).name or root.name,
                "test",
                (pairs[image],) if image in pairs else (),
                root=root,
            )
            for name in self.abnormal
            for image in images[name]
        ]

    def _pairs(
        self, root: Path, images: dict[str, list[Path]], places: dict[str, tuple[Path, ...]]
    ) -> dict[Path, Path]:
        """Return image -> mask; defects that share their mask folders are paired together."""
        pairs: dict[Path, Path] = {}
        pictures = {image for several in images.values() for image in several}
        for place in sorted(set(places.values())):
            names = [name for name in self.abnormal if places[name] == place]
            own = [image for name in names for image in images[name]]
            masks = [m for folder in place for m in images_in(folder) if m not in pictures]
            found = paired_masks(own, masks, key=_SORT)
            check_paired(found, own, masks, key="dataset.options.masks names the folder")
            pairs |= found
        if self.masks and not pairs:
            told = ", ".join(shown_path(root / name) for name in self.masks)
            raise UserError(
                f"no mask in {told} (dataset.options.masks), neither there nor in DEFECT below it"
            )
        return pairs

    def _mask_folders(self, root: Path) -> dict[str, tuple[Path, ...]]:
        """Return abnormal folder -> where its masks lie."""
        if not self.masks:
            return {}
        for name in self.masks:
            if not os.path.isdir(root / name):
                raise UserError(f"{root / name} (dataset.options.masks) does not exist")
        if len(self.masks) == len(self.abnormal) > 1:
            return {name: (root / mask,) for name, mask in _side_by_side(self.abnormal, self.masks)}
        return {
            name: tuple(_own_folder(root / mask, Path(name).name) for mask in self.masks)
            for name in self.abnormal
        }


_SORT = (
    "sort the masks into one folder per defect (masks/DEFECT), or name one mask folder for each "
    "abnormal one: dataset.options.masks=[FOLDER,FOLDER]"
)


def _side_by_side(abnormal: tuple[str, ...], masks: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield (abnormal folder, mask folder): by name where all names are equal, else by place."""
    by_name = {Path(mask).name: mask for mask in masks}
    if set(by_name) == {Path(name).name for name in abnormal} and len(by_name) == len(masks):
        yield from ((name, by_name[Path(name).name]) for name in abnormal)
    else:
        yield from zip(abnormal, masks, strict=True)


def _own_folder(masks: Path, defect: str) -> Path:
    return masks / defect if os.path.isdir(masks / defect) else masks


def _check_once(samples: list[Sample]) -> None:
    """Refuse a picture that two keys name: it would be normal and defective, or train and test."""
    seen: set[str] = set()
    for sample in samples:
        path = os.path.abspath(sample.image)
        if path in seen:
            raise UserError(
                f"{shown_path(sample.image)} is named twice: dataset.options.normal, abnormal and "
                "normal_test must be different folders"
            )
        seen.add(path)


def _listed(folders: Folders | None) -> tuple[str, ...]:
    if folders is None:
        return ()
    return (folders,) if isinstance(folders, str) else tuple(folders)


def _images(folder: Path, key: str) -> list[Path]:
    if not os.path.isdir(folder):
        raise UserError(f"{folder} (dataset.options.{key}) does not exist")
    found = images_in(folder)
    if not found:
        raise UserError(f"no image in {folder} (dataset.options.{key})")
    return found
