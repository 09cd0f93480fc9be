"""What is wrong with a data set on disk, each finding with its remedy."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adbench.config.schema import Fit
from adbench.data.catalogue import CATALOGUE, Counts
from adbench.data.depth import beyond_depth, found_depth
from adbench.data.facts import content_hash, facts_of
from adbench.data.files import shown_path
from adbench.data.images import DEEPEST, image_size, is_image, open_mask
from adbench.data.look import Look, look_at, near_duplicates
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from adbench.data.whole import broken_files
from adbench.errors import UserError

Level = Literal["error", "warning", "note"]
_LEVELS = ("error", "warning", "note")
_MASK_ROOTS = ("ground_truth", "Masks")
_NO_MASK = "defective, but has no mask: left out of pixel metrics"
_SHOWN = 3  # examples of one kind
_TALL = 3.0  # how much squashing may change the ratio of the sides before it is a word worth


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        level: ``error`` stops a run; ``warning`` is said; ``note`` is only told when asked.
        path: the file or folder it is about.
        message: what is wrong.
        remedy: what to do about it; empty where nothing is needed.
        kind: what several findings have in common; empty where the message says it.
    """

    level: Level
    path: Path
    message: str
    remedy: str = ""
    kind: str = ""


def check_samples(
    samples: Sequence[Sample],
    *,
    full: bool,
    fit: Fit = "squash",
    size: tuple[int, int] = (1, 1),
    bits: int | None = None,
) -> list[Finding]:
    """Return what is wrong with ``samples``: errors first, by path within a level.

    Whole files (``adbench.data.whole``), sizes, pairing, orphan masks, depth and equal files in
    train and test are always checked; give whole categories, else masks of images left out count
    as orphans.

    Args:
        full: decode every file as well: empty, soft and normal images' masks, equal pictures in
            unequal files, near-duplicates between good and defective, flat pictures; and tell
            what is unusual about sizes, shapes and depth.
        fit, size, bits: how pictures are brought to the working size; bits None to find them.
    """
    findings: list[Finding] = []
    damaged = broken_files(p for sample in samples for p in (sample.image, *sample.masks))
    sizes: dict[Path, tuple[int, int]] = {}
    for sample in samples:
        findings += _checked(sample, sizes, damaged, full=full)
    if not any(sample.masks for sample in samples):  # a set without masks is meant so
        findings = [replace(f, level="note") if f.message == _NO_MASK else f for f in findings]
    sound = [sample for sample in samples if sample.image in sizes]
    findings += _masks_used_twice(samples)
    findings += _orphan_masks(samples)
    findings += _equal(_by_content(sound), "is the same file as")
    findings += _depths(sound, bits, full=full)
    if full:
        findings += _sizes(sound, sizes, fit, size)
        findings += _pictures(sound, bits if bits is not None else found_depth(sound))
    order = {level: position for position, level in enumerate(_LEVELS)}
    return sorted(set(findings), key=lambda f: (order[f.level], f.path.as_posix(), f.message))


def told(findings: Sequence[Finding], *, every: bool = False) -> list[tuple[Level, str]]:
    """Return (level, line) of findings: one line for each kind, with a count and three examples.

    Args:
        every: one line for each finding instead.
    """
    groups: dict[object, list[Finding]] = defaultdict(list)
    for position, found in enumerate(findings):
        kind = position if every else (found.level, found.kind or found.message, found.remedy)
        groups[kind].append(found)
    return [(group[0].level, _line(group)) for group in groups.values()]


def _line(group: Sequence[Finding]) -> str:
    first = group[0]
    remedy = f"; {first.remedy}" if first.remedy else ""
    if len(group) == 1:
        return f"{shown_path(first.path)}: {first.message}{remedy}"
    above = os.path.commonpath([found.path.parent for found in group])
    names = [shown_path(os.path.relpath(found.path, above)) for found in group[:_SHOWN]]
    more = ", ..." if len(group) > _SHOWN else ""
    return (
        f"{len(group)} files in {shown_path(above)}: {first.kind or first.message} "
        f"({', '.join(names)}{more}){remedy}"
    )


def _checked(
    sample: Sample,
    sizes: dict[Path, tuple[int, int]],
    damaged: Mapping[Path, str],
    *,
    full: bool,
) -> Iterator[Finding]:
    try:
        _raise_damage(sample.image, damaged)
        sizes[sample.image] = image_size(sample.image)
    except UserError as error:
        yield _unreadable(sample.image, error)
        return
    if sample.label == ANOMALOUS and sample.split == "test" and not sample.masks:
        yield Finding(
            "warning",
            sample.image,
            _NO_MASK,
            "add a mask file of the same stem, or of the stem and _mask",
        )
    yield from _checked_masks(sample, sizes[sample.image], damaged, full=full)


def _raise_damage(path: Path, damaged: Mapping[Path, str]) -> None:
    if path in damaged:
        raise UserError(damaged[path])


def _unreadable(path: Path, error: UserError) -> Finding:
    message = _short(error, path)
    kind = re.sub(r"\d+", "N", message)  # positions and lengths differ from file to file
    return Finding("error", path, message, "replace or remove the file", kind)


def _checked_masks(
    sample: Sample, size: tuple[int, int], damaged: Mapping[Path, str], *, full: bool
) -> Iterator[Finding]:
    defective = False
    for mask in sample.masks:
        try:
            _raise_damage(mask, damaged)
            found = image_size(mask)
            if found != size:
                yield _wrong_size(mask, found, size, sample)
            # the few masks of normal images are decoded even when quick: they can be wrong
            if full or sample.label == NORMAL:
                opened = open_mask(mask)
                defective |= bool(opened.defect.any())
                if opened.soft:
                    yield Finding("note", mask, _SOFT)
        except UserError as error:
            yield _unreadable(mask, error)
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


_SOFT = "mask with soft edges or compression artefacts: taken above half of its range of values"


def _wrong_size(
    mask: Path, found: tuple[int, int], size: tuple[int, int], sample: Sample
) -> Finding:
    message = (
        f"mask of {found[1]}x{found[0]} pixels, but its image {sample.relative} has "
        f"{size[1]}x{size[0]} (width x height)"
    )
    return Finding("error", mask, message, "correct the mask", "masks of another size than images")


def _short(error: UserError, path: Path) -> str:
    """Return the reader's message without the path, which the finding names already."""
    text = str(error).split(";")[0]
    name = shown_path(path)
    return text.replace(f" {name}", "").replace("cannot read image:", "cannot be read:")


def _masks_used_twice(samples: Iterable[Sample]) -> Iterator[Finding]:
    """Yield masks of several defective images: at most one of them can be right."""
    owners: dict[Path, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.label == ANOMALOUS:
            for mask in sample.masks:
                owners[mask].append(sample)
    for mask, several in owners.items():
        if len(several) > 1:
            yield Finding(
                "error",
                mask,
                f"mask of {several[0].relative} and of {several[1].relative}: used once only",
                "give each picture its own mask",
                "masks of several pictures",
            )


def _depths(samples: Sequence[Sample], bits: int | None, *, full: bool) -> Iterator[Finding]:
    """Yield pictures with values beyond the depth in force, and when full that depth."""
    try:
        depth = bits if bits is not None else found_depth(samples)
        beyond = beyond_depth(samples, depth)
    except UserError:
        return  # told by the check of the file itself
    for sample in beyond:
        yield Finding(
            "warning",
            sample.image,
            f"brighter than the {depth} bits that the data set's pictures have: clipped",
            "set dataset.bits",
        )
    if full and samples and depth not in (None, DEEPEST):
        where = samples[0].root or samples[0].image.parent
        yield Finding("note", where, f"{depth} bits are used of its pictures' 16 (dataset.bits)")


def _sizes(
    samples: Sequence[Sample],
    sizes: Mapping[Path, tuple[int, int]],
    fit: Fit,
    working: tuple[int, int],
) -> Iterator[Finding]:
    """Yield categories of unequal pictures, and pictures that squashing changes much."""
    by_category: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_category[sample.category].append(sample)
    for category, own in by_category.items():
        counts = Counter(sizes[sample.image] for sample in own)
        if len(counts) > 1:
            common = ", ".join(f"{n} of {w}x{h}" for (h, w), n in counts.most_common(_SHOWN))
            more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
            message = f"sizes of the pictures of {category} differ: {common}{more}"
            yield Finding("note", own[0].root or own[0].image.parent, message)
    if fit != "squash":
        return
    for sample in samples:
        height, width = sizes[sample.image]
        ratio = (width / height) / (working[1] / working[0])
        if max(ratio, 1 / ratio) > _TALL:
            yield Finding(
                "note",
                sample.image,
                f"{width}x{height} pixels lose their shape when squashed to the working size",
                "dataset.fit=pad keeps its shape, dataset.fit=crop looks at its middle",
                "far from the working size's shape, and squashed to it",
            )


def _pictures(samples: Sequence[Sample], bits: int | None) -> Iterator[Finding]:
    """Yield what only looking at every picture tells."""
    looks = _looks([sample.image for sample in samples], bits)
    seen: list[tuple[Sample, Look]] = []
    for sample, found in zip(samples, looks, strict=True):
        if isinstance(found, UserError):
            yield _unreadable(sample.image, found)
            continue
        seen.append((sample, found))
        if sample.label == NORMAL and found.is_flat:
            yield Finding(
                "warning",
                sample.image,
                "shows nothing: all of one grey value (a covered lens, an unlit part?)",
                "remove it, unless good parts look like that",
            )
    groups: dict[bytes, list[Sample]] = defaultdict(list)
    for sample, found in seen:
        groups[found.digest].append(sample)
    yield from _equal(groups.values(), "shows the same pixels as")
    yield from _near(seen)


def _looks(paths: Sequence[Path], bits: int | None) -> list[Look | UserError]:
    def look(path: Path) -> Look | UserError:
        try:
            return look_at(path, bits)
        except UserError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(look, paths))


def _near(seen: Sequence[tuple[Sample, Look]]) -> Iterator[Finding]:
    good = [(sample, look) for sample, look in seen if sample.label == NORMAL]
    bad = [(sample, look) for sample, look in seen if sample.label == ANOMALOUS]
    pairs = near_duplicates([look for _, look in good], [look for _, look in bad])
    for i, j in pairs:
        yield Finding(
            "warning",
            bad[j][0].image,
            f"defective, but nearly the same picture as the good {good[i][0].relative}",
            "one of the two labels is wrong, or one picture was made from the other",
            "defective, but nearly the same picture as a good one",
        )


def _orphan_masks(samples: Iterable[Sample]) -> Iterator[Finding]:
    """Yield one finding per folder of masks that holds files no image is paired with."""
    samples = list(samples)
    used = {mask for sample in samples for mask in sample.masks}
    images = {sample.image.parent for sample in samples}
    orphans: dict[Path, list[Path]] = defaultdict(list)
    for folder in _mask_folders(samples):
        for path in folder.glob("**/*" if folder.name in _MASK_ROOTS else "*"):
            if is_image(path) and path not in used and path.parent not in images:
                orphans[path.parent].append(path)
    for folder, paths in sorted(orphans.items()):
        example = shown_path(min(paths).name)
        yield Finding(
            "warning",
            folder,
            f"{len(paths)} masks belong to none of the images read, e.g. {example}",
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
                    f"test picture that {how} one of the training or validation split",
                )


def _by_content(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Yield groups of files equal byte by byte; only those of equal length are hashed."""
    lengths: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        lengths[sample.image.stat().st_size].append(sample)
    suspects = [
        sample
        for group in lengths.values()
        if len({each.split == "test" for each in group}) > 1
        for sample in group
    ]
    hashes = facts_of([sample.image for sample in suspects], "sha256", content_hash)
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample, content in zip(suspects, hashes, strict=True):
        groups[content].append(sample)
    yield from groups.values()


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
    found_samples = list(samples)
    published = CATALOGUE[name].counts if name in CATALOGUE else {}
    unlabelled = Counter(s.category for s in found_samples if s.label == UNKNOWN)
    more = ["unlabelled"] if unlabelled else []
    header = ["category", "train", "val", "test good", "test bad", *more, "published", ""]
    rows = []
    for category, found in counted(found_samples).items():
        known = published.get(category)
        verdict = "" if known is None else "as published" if known == found else "differs"
        numbers = [found.train, found.val, found.good, found.bad]
        numbers += [unlabelled[category]] if unlabelled else []
        rows.append([category, *map(str, numbers), str(known) if known else "-", verdict])
    return header, rows
