"""How many bits of their 16 a data set's pictures use: found once, the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from adbench.data.facts import facts_of
from adbench.data.images import peak_value
from adbench.data.sample import Sample

DEPTHS = (8, 10, 12, 14, 16)  # what cameras give


def found_depth(samples: Iterable[Sample]) -> int | None:
    """Return the bits in use of a data set's deep pictures; None where it has none to learn from.

    The smallest of 8, 10, 12, 14 and 16 bits that holds every value of every training and
    validation picture stored in 16 bits; pictures stored in 8 bits have no say and are never
    changed. None means that ``read_image`` takes all 16. The largest value of a file is
    remembered below the cache folder, so that asking again costs nothing.

    Raises:
        UserError: a picture cannot be read.
    """
    trained = sorted({sample.image for sample in samples if sample.split != "test"})
    peaks = [peak for peak in _peaks(trained) if peak is not None]
    if not peaks:
        return None
    return next(bits for bits in DEPTHS if max(peaks) < 2**bits)


def beyond_depth(samples: Iterable[Sample], bits: int | None) -> list[Sample]:
    """Return the samples with values that ``bits`` cannot hold: these are clipped when read.

    Raises:
        UserError: a picture cannot be read.
    """
    if bits is None:
        return []
    found = list(samples)
    peaks = _peaks([sample.image for sample in found])
    return [
        sample
        for sample, peak in zip(found, peaks, strict=True)
        if peak is not None and peak >= 2**bits
    ]


def _peaks(paths: Sequence[Path]) -> list[int | None]:
    def told(path: Path) -> str:
        peak = peak_value(path)
        return "" if peak is None else str(peak)

    return [int(text) if text else None for text in facts_of(paths, "peak", told)]
