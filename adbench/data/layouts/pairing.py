"""Which mask belongs to which picture, by their names."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from adbench.data.files import shown_path
from adbench.errors import UserError

_WORDS = "mask|gt|ground_?truth|label|seg|segmentation|annotation"
_AFTER = re.compile(rf"(?P<stem>.+)[ _.-]({_WORDS})", re.IGNORECASE)
_BEFORE = re.compile(rf"({_WORDS})[ _.-](?P<stem>.+)", re.IGNORECASE)
_SURE = re.compile(
    r"(mask|gt|ground_?truth)[ _.-].+|.+[ _.-](mask|gt|ground_?truth)", re.IGNORECASE
)
NAMINGS = "S, S_mask, S_gt, S_label, S_seg or mask_S for a picture S, any extension"


def paired_masks(
    images: Sequence[Path], masks: Sequence[Path], *, key: str = ""
) -> dict[Path, Path]:
    """Return the mask of each image that has one; every mask is used once.

    A mask's name is the picture's, or that with ``_mask``, ``_gt``, ``_label`` or ``_seg`` behind
    or ``mask_`` before it, whatever the extension. Names are compared in Unicode's composed form
    (NFC), and where no name is equal, without regard to case. A mask whose whole name is a
    picture's is that picture's only: ``a_mask.png`` is no mask of ``a`` where a picture
    ``a_mask`` exists.

    Args:
        images: pictures that look for their masks in the same place.
        masks: what lies there.
        key: what the message advises, where a mask could belong to several pictures.

    Raises:
        UserError: two masks for one image, or one mask for two images.
    """
    exact, folded = _by_stem(images, fold=False), _by_stem(images, fold=True)
    found: dict[Path, list[Path]] = defaultdict(list)
    for mask in masks:
        owners = _owners(mask, exact, folded)
        if len(owners) > 1:
            raise UserError(_shared(mask, owners, key))
        for image in owners:
            found[image].append(mask)
    for image, several in found.items():
        if len(several) > 1:
            names = " and ".join(shown_path(path) for path in several)
            raise UserError(f"two masks for {shown_path(image)}: {names}; keep one of them")
    return {image: several[0] for image, several in found.items()}


def check_paired(
    pairs: Mapping[Path, Path], images: Sequence[Path], masks: Sequence[Path], *, key: str
) -> None:
    """Refuse masks none of which belongs to any of the pictures that they were given for.

    Raises:
        UserError: tells what was found, what was expected and the key that helps.
    """
    if pairs or not masks or not images:
        return
    raise UserError(
        f"none of the {len(masks)} masks in {shown_path(masks[0].parent)} (e.g. "
        f"{shown_path(masks[0].name)}) is named like one of the {len(images)} pictures in "
        f"{shown_path(images[0].parent)} (e.g. {shown_path(images[0].name)}); expected: "
        f"{NAMINGS}; {key}"
    )


def masks_beside(images: Iterable[Path]) -> dict[Path, Path]:
    """Return mask -> picture where a file lies beside the picture whose mask its name says it is.

    Only ``_mask``, ``_gt`` and the like count here: a picture of a label may be called ``_label``.
    """
    images = list(images)
    exact, folded = _by_stem(images, fold=False), _by_stem(images, fold=True)
    found = {}
    for path in images:
        if not _SURE.fullmatch(_stem(path)):
            continue
        for reading in _readings(path)[1:]:
            owners = exact.get(reading) or folded.get(reading.casefold()) or []
            beside = [owner for owner in owners if owner.parent == path.parent]
            if beside:
                found[path] = beside[0]
    return found


def check_no_masks_beside(images: Iterable[Path], remedy: str) -> None:
    """Refuse a folder of pictures in which their masks lie as well.

    Raises:
        UserError: tells how many, one of them, and ``remedy``.
    """
    found = masks_beside(images)
    if found:
        mask, image = next(iter(found.items()))
        raise UserError(
            f"{len(found)} files in {shown_path(mask.parent)} are named as masks of the pictures "
            f"beside them (e.g. {shown_path(mask.name)} of {shown_path(image.name)}) and would be "
            f"read as pictures; {remedy}"
        )


def _stem(path: Path) -> str:
    return unicodedata.normalize("NFC", path.stem)


def _by_stem(images: Iterable[Path], *, fold: bool) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        stem = _stem(image)
        found[stem.casefold() if fold else stem].append(image)
    return found


def _readings(mask: Path) -> list[str]:
    """Return the stems that a mask's name may stand for: its own first."""
    stem = _stem(mask)
    matches = (_AFTER.fullmatch(stem), _BEFORE.fullmatch(stem))
    return [stem, *(match["stem"] for match in matches if match)]


def _owners(
    mask: Path, exact: Mapping[str, list[Path]], folded: Mapping[str, list[Path]]
) -> list[Path]:
    readings = _readings(mask)
    for reading in readings:
        if reading in exact:
            return exact[reading]
    for reading in readings:
        if reading.casefold() in folded:
            return folded[reading.casefold()]
    return []


def _shared(mask: Path, owners: Sequence[Path], key: str) -> str:
    names = " and to ".join(shown_path(owner) for owner in owners[:2])
    more = f" and {len(owners) - 2} more" if len(owners) > 2 else ""
    advice = f"; {key}" if key else "; give the pictures different names"
    return f"mask {shown_path(mask)} could belong to {names}{more}: a mask is used once{advice}"
