"""What is wrong with a data set on disk, each finding with its remedy."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adbench.data.catalogue import CATALOGUE, Counts
from adbench.data.images import (
    image_size,
    is_image,
    read_image,
    read_nonzero,
    seems_whole,
)
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

Level = Literal["error", "warning"]
_MASK_ROOTS = ("ground_truth", "Masks")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: ``error`` stops a run; ``warning`` is said.
        path: the file or folder it is about.
        message: what is wrong.
        remedy: what to do about it; empty where nothing is needed.
    """

    level: Level
    path: Path
    message: str
    remedy: str = ""


def check_samples(samples: Sequence[Sample], *, full: bool) -> list[Finding]:
    """Return what is wrong with ``samples``: errors first, by path within a level.

    Headers, sizes, pairing, orphan masks and equal files in train and test are always checked;
    give whole categories, else masks of images left out count as orphans.

    Args:
        full: decode every file as well: broken pixels, empty masks, masks of normal images,
            and equal pictures in unequal files.
    """
    findings: list[Finding] = []
    for sample in samples:
        findings += _checked(sample, full=full)
    findings += _orphan_masks(samples)
    findings += _duplicates(samples, full=full)
    return sorted(set(findings), key=lambda f: (f.level, f.path.as_posix(), f.message))


def _checked(sample: Sample, *, full: bool) -> Iterator[Finding]:
    try:
        size = _checked_size(sample.image, full=full)
    except UserError as error:
        yield Finding("error", sample.image, _short(error, sample.image), _REPLACE)
        return
    if sample.label == ANOMALOUS and sample.split == "test" and not sample.masks:
        yield Finding(
            "warning",
            sample.image,
            "defective, but has no mask: left out of pixel metrics",
            "add a mask file of the same stem, or of the stem and _mask",
        )
    yield from _checked_masks(sample, size, full=full)


_REPLACE = "replace or remove the file"


def _checked_size(path: Path, *, full: bool) -> tuple[int, int]:
    """Return (height, width); decodes where asked, or where the file's end looks wrong."""
    size = image_size(path)
    if full or not seems_whole(path):
        read_image(path)
    return size


def _checked_masks(sample: Sample, size: tuple[int, int], *, full: bool) -> Iterator[Finding]:
    defective = False
    for mask in sample.masks:
        try:
            found = image_size(mask)
            if found != size:
                yield Finding("error", mask, _wrong_size(found, size, sample), "correct the mask")
            # the few masks of normal images are decoded even when quick: they can be wrong
            if full or sample.label == NORMAL or not seems_whole(mask):
                defective |= bool(read_nonzero(mask).any())
        except UserError as error:
            yield Finding("error", mask, _short(error, mask), _REPLACE)
            return
    if defective and sample.label == NORMAL:
        yield Finding(
            "error", sample.image, "normal, but its mask is not empty", "correct label or mask"
        )
    if full and sample.masks and not defective and sample.label == ANOMALOUS:
        yield Finding(
            "warning",
            sample.masks[0],
            "empty, but its image is defective: its pixels count as normal",
            "draw the defect, or move the image to the normal ones",
        )


def _wrong_size(found: tuple[int, int], size: tuple[int, int], sample: Sample) -> str:
    return (
        f"mask of {found[1]}x{found[0]} pixels, but its image {sample.relative} has "
        f"{size[1]}x{size[0]} (width x height)"
    )


def _short(error: UserError, path: Path) -> str:
    """Return the reader's message without the path, which the finding names already."""
    text = str(error).split(";")[0]
    return text.replace(f" {path}", "").replace("cannot read image:", "cannot be read:")


def _orphan_masks(samples: Iterable[Sample]) -> Iterator[Finding]:
    """Yield one finding per folder of masks that holds files no image is paired with."""
    samples = list(samples)
    used = {mask for sample in samples for mask in sample.masks}
    images = {sample.image.parent for sample in samples}
    orphans: dict[Path, list[Path]] = defaultdict(list)
    for folder in _mask_folders(samples):
        for path in folder.rglob("*") if folder.name in _MASK_ROOTS else folder.iterdir():
            if is_image(path) and path not in used and path.parent not in images:
                orphans[path.parent].append(path)
    for folder, paths in sorted(orphans.items()):
        yield Finding(
            "warning",
            folder,
            f"{len(paths)} masks belong to none of the images read, e.g. {min(paths).name}",
            "name masks like their images, or like them with _mask; or remove them",
        )


def _mask_folders(samples: Iterable[Sample]) -> set[Path]:
    """Return the folders where these samples' masks lie, or would in layout M."""
    folders = set()
    for sample in samples:
        if sample.split == "test":
            beside = sample.image.parent.parent.parent / "ground_truth"  # layout M
            if beside.is_dir():
                folders.add(beside)
        for mask in sample.masks:
            above = [parent for parent in mask.parents if parent.name in _MASK_ROOTS]
            folders.add(above[0] if above else mask.parent)
    return folders


def _duplicates(samples: Sequence[Sample], *, full: bool) -> Iterator[Finding]:
    """Yield test images that are equal to an image of the training or validation split."""
    readable = [sample for sample in samples if sample.image.is_file()]
    yield from _equal(_by_content(readable), "is the same file as")
    if full:
        yield from _equal(_by_pixels(readable), "shows the same pixels as")


def _equal(groups: Iterable[list[Sample]], how: str) -> Iterator[Finding]:
    for group in groups:
        fitted = [sample for sample in group if sample.split != "test"]
        for sample in group:
            if sample.split == "test" and fitted:
                yield Finding(
                    "warning",
                    sample.image,
                    f"{how} {fitted[0].relative} of the {fitted[0].split} split",
                    "remove one of them: test results are not honest otherwise",
                )


def _by_content(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield groups of files equal byte by byte; only those of equal length are hashed."""
    lengths: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        lengths[sample.image.stat().st_size].append(sample)
    for group in lengths.values():
        if len({sample.split == "test" for sample in group}) > 1:
            yield from _grouped((hashlib.sha256(s.image.read_bytes()).digest(), s) for s in group)


def _by_pixels(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    def keyed() -> Iterator[tuple[bytes, Sample]]:
        for sample in samples:
            try:
                pixels = read_image(sample.image)
            except UserError:
                continue  # told by the check of the file itself
            yield hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest(), sample

    return _grouped(keyed())


def _grouped(keyed: Iterable[tuple[bytes, Sample]]) -> Iterator[list[Sample]]:
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for key, sample in keyed:
        groups[key].append(sample)
    yield from (group for group in groups.values() if len(group) > 1)


def counted(samples: Iterable[Sample]) -> dict[str, Counts]:
    """Return the images found by category: training, validation, normal and defective test."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        kind = sample.split
        if kind == "test":
            kind = {NORMAL: "good", ANOMALOUS: "bad"}.get(sample.label, "unknown")
        found[sample.category][kind] += 1
    return {
        category: Counts(n["train"], n["val"], n["good"], n["bad"])
        for category, n in sorted(found.items())
    }


def count_table(name: str, samples: Iterable[Sample]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: images found per category, beside the published ones.

    Args:
        name: the data set's name in the catalogue; an unknown one has no published counts.
    """
    published = CATALOGUE[name].counts if name in CATALOGUE else {}
    header = ["category", "train", "val", "test good", "test bad", "published", ""]
    rows = []
    for category, found in counted(samples).items():
        known = published.get(category)
        verdict = "" if known is None else "as published" if known == found else "differs"
        numbers = [str(n) for n in (found.train, found.val, found.good, found.bad)]
        rows.append([category, *numbers, str(known) if known else "-", verdict])
    return header, rows
