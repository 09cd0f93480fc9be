"""Real defects that may be seen: their choice, their record, and who may be scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adbench.data.facts import content_hash, facts_of
from adbench.data.sample import ANOMALOUS, Sample
from adbench.errors import UserError, nearest
from adbench.runs.files import read_record, write_json

SEEN = "seen"  # the split of defects that were seen: neither trained on as normal nor scored
RECORD = "defects.json"
SCHEMA = 1
_ABOVE = 4  # folders above a pool in which its record is looked for: stages/NAME of a run


@dataclass(frozen=True, slots=True)
class SeenDefect:
    """A defective picture that a method has looked at.

    Attributes:
        file: path below the root of its data set.
        sha256: of the file's content: the same picture under another name is the same picture.
        through: the folder of pairs by which it was seen; None where the run itself saw it.
    """

    file: str
    category: str
    defect: str
    sha256: str
    through: str | None = None


def with_seen(
    samples: Sequence[Sample], wanted: str | int | Sequence[str] | None, seed: int
) -> list[Sample]:
    """Return ``samples`` with the chosen defects in the split ``seen``, in their order.

    Pictures equal to a chosen one byte for byte, or of its scene, go with it: none of them is
    ever scored.

    Args:
        wanted: ``third`` (a third of each type's pictures, at least one, one left to test on; a
            type with one picture is tested on only), a number a category, spread over the types
            likewise, files as paths below the root, or None for no defect.
        seed: fixes who is chosen.

    Raises:
        UserError: more are asked for than there are, or a file is no defective picture.
    """
    if wanted is None:
        return list(samples)
    pool = [s for s in samples if s.split == "test" and s.label == ANOMALOUS]
    hashes = dict(zip((s.image for s in pool), _hashes(pool), strict=True))
    if isinstance(wanted, str | int):
        masked = [sample for sample in pool if sample.masks]
        chosen = [
            sample
            for category in sorted({s.category for s in samples})
            for sample in _drawn([s for s in masked if s.category == category], wanted, seed)
        ]
    else:
        chosen = [_named(name, pool) for name in wanted]
    contents = {hashes[sample.image] for sample in chosen}
    scenes = {(s.category, s.scene) for s in chosen if s.scene is not None}
    return [
        replace(sample, split=SEEN)
        if hashes.get(sample.image) in contents or (sample.category, sample.scene) in scenes
        else sample
        for sample in samples
    ]


def _drawn(own: Sequence[Sample], wanted: str | int, seed: int) -> list[Sample]:
    """Return pictures of one category, drawn type by type from the seed."""
    types: dict[str, list[Sample]] = {}
    for sample in sorted(own, key=lambda s: s.relative):
        types.setdefault(sample.defect, []).append(sample)
    counts = _counts({name: len(of) for name, of in types.items()}, wanted, own)
    chosen = []
    for name, of in types.items():
        key = int.from_bytes(name.encode()[:8].ljust(8), "big")
        order = np.random.default_rng([seed, key, 0xDEFEC7]).permutation(len(of))
        chosen += [of[i] for i in sorted(order[: counts[name]].tolist())]
    return chosen


def _counts(sizes: Mapping[str, int], wanted: str | int, own: Sequence[Sample]) -> dict[str, int]:
    """Return how many pictures of each type are seen; one of each stays to be tested."""
    most = {name: size - 1 for name, size in sizes.items()}
    if isinstance(wanted, str):
        return {name: min(max(size // 3, 1), most[name]) for name, size in sizes.items()}
    if wanted > sum(most.values()):
        category = own[0].category if own else "the category"
        raise UserError(
            f"dataset.defects={wanted}: {category} has {sum(sizes.values())} defective pictures "
            f"with a mask, {sum(most.values())} of which may be seen (one of each type stays to "
            f"be tested); at most dataset.defects={sum(most.values())}"
        )
    counts = dict.fromkeys(sizes, 0)
    for _ in range(wanted):  # the type whose share is furthest behind takes the next one
        behind = [name for name in sizes if counts[name] < most[name]]
        counts[min(behind, key=lambda n: (counts[n] + 0.5) / sizes[n] if counts[n] else 0.0)] += 1
    return counts


def _named(name: str, pool: Sequence[Sample]) -> Sample:
    for sample in pool:
        if name in (sample.relative, sample.image.as_posix()):
            if not sample.masks:
                raise UserError(f"dataset.defects: {name} has no mask; draw one, or leave it out")
            return sample
    near = nearest(name, [sample.relative for sample in pool])
    raise UserError(
        f"dataset.defects: '{name}' is no defective picture of the data set{near}; paths below "
        "its root are expected, such as bottle/test/broken_large/000.png"
    )


def seen_through(section: Any) -> list[SeenDefect]:
    """Return the defects behind the folders that a section of the configuration draws from.

    Every key ``root`` at any depth is followed: the folder's own ``defects.json``, those of the
    folders above it, and those below it.

    Raises:
        UserError: a record is damaged.
    """
    found: dict[str, SeenDefect] = {}
    for root in _roots(section):
        for record in _records(root):
            for seen in read_seen(record):
                found.setdefault(seen.sha256, replace(seen, through=str(root)))
    return list(found.values())


def _roots(section: Any) -> Iterable[Path]:
    if isinstance(section, Mapping):
        for key, value in section.items():
            if key == "root" and isinstance(value, str):
                yield Path(value).expanduser()
            else:
                yield from _roots(value)


def _records(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    place = root.resolve()
    above = [folder / RECORD for folder in [place, *place.parents][:_ABOVE]]
    return sorted({path for path in [*above, *place.rglob(RECORD)] if path.is_file()})


def without_these(samples: Sequence[Sample], seen: Iterable[SeenDefect]) -> list[Sample]:
    """Return ``samples`` with every test picture that is one of ``seen`` in the split ``seen``."""
    contents = {each.sha256 for each in seen}
    if not contents:
        return list(samples)
    tests = [sample for sample in samples if sample.split == "test"]
    known = {
        sample.image
        for sample, content in zip(tests, _hashes(tests), strict=True)
        if content in contents
    }
    return [
        replace(sample, split=SEEN) if sample.split == "test" and sample.image in known else sample
        for sample in samples
    ]


def described(samples: Sequence[Sample]) -> list[SeenDefect]:
    """Return what is recorded of the seen defects among ``samples``."""
    own = [sample for sample in samples if sample.split == SEEN]
    return [
        SeenDefect(sample.relative, sample.category, sample.defect, content)
        for sample, content in zip(own, _hashes(own), strict=True)
    ]


def check_disjoint(samples: Sequence[Sample], seen: Iterable[SeenDefect]) -> None:
    """Raise UserError where a picture to be scored is one that was seen, whatever its name."""
    contents = {each.sha256: each.file for each in seen}
    tests = [sample for sample in samples if sample.split == "test"]
    for sample, content in zip(tests, _hashes(tests) if contents else [], strict=False):
        if content in contents:
            raise UserError(f"{sample.relative} was seen as {contents[content]}: it is not scored")


def write_seen(
    folder: Path, seen: Sequence[SeenDefect], samples: Sequence[Sample], asked: Any, seed: int
) -> None:
    """Write ``defects.json``: who was seen, and how many of each type are left to test."""
    tests = [s for s in samples if s.split == "test" and s.label == ANOMALOUS]
    known = Counter(f"{each.category}/{each.defect}" for each in seen)
    left = Counter(f"{each.category}/{each.defect}" for each in tests)
    counts = {name: {"seen": known[name], "test": left[name]} for name in sorted({*known, *left})}
    rows = [{name: getattr(each, name) for name in SeenDefect.__slots__} for each in seen]
    document = {"schema": SCHEMA, "asked": asked, "seed": seed, "counts": counts, "seen": rows}
    write_json(folder / RECORD, document)


def read_seen(path: Path) -> list[SeenDefect]:
    """Return what ``defects.json`` says was seen.

    Raises:
        UserError: it is damaged: nobody could say which pictures may be scored.
    """
    rows = read_record(path).get("seen")
    names = SeenDefect.__slots__
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise UserError(f"{path} is damaged: which defects were seen cannot be told")
    for row in rows:
        texts = [row.get(name) for name in names if name != "through"]
        if not all(isinstance(text, str) and text for text in texts):
            raise UserError(f"{path} is damaged: which defects were seen cannot be told")
    return [SeenDefect(**{name: row.get(name) for name in names}) for row in rows]


def _hashes(samples: Sequence[Sample]) -> list[str]:
    return facts_of([sample.image for sample in samples], "sha256", content_hash)
