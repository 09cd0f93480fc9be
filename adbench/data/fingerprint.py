"""Which files a run saw: enough to say later what differs."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.data.facts import content_hash, facts_of
from adbench.data.sample import Sample

SCHEMA = 1
_SHOWN = 3  # names in a line
_DIGITS = 16  # of a file's SHA-256, in the table: 64 bits


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The files of each split.

    Attributes:
        splits: split -> relative path -> "SIZE HASH": bytes, and the first 16 digits of the
            file's SHA-256; masks are files of their picture's split.
    """

    splits: Mapping[str, Mapping[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for run.json: per split the number of files, one hash, the table."""
        return {
            "schema": SCHEMA,
            "splits": {
                split: {"files": len(table), "hash": _hash(table), "table": dict(table)}
                for split, table in self.splits.items()
            },
        }


def fingerprint(samples: Iterable[Sample]) -> Fingerprint:
    """Return the fingerprint of the images and masks of ``samples``, whatever their order.

    Paths are relative to the data set's root, so that data that were moved as a whole still
    match; a file outside of the root is named from it with ``..``. Contents are hashed once and
    remembered (``facts_of``); equal data have equal fingerprints on every machine.

    Raises:
        UserError: a file does not exist or is no regular file.
    """
    found = sorted({(s.split, _relative(path, s.root), path) for s in samples for path in _of(s)})
    hashes = facts_of([path for _, _, path in found], "sha256", content_hash)
    splits: dict[str, dict[str, str]] = {}
    for (split, name, path), content in zip(found, hashes, strict=True):
        table = splits.setdefault(split, {})
        table[name] = _entry(path, content)
    return Fingerprint(splits)


def _of(sample: Sample) -> Iterator[Path]:
    yield sample.image
    yield from sample.masks


def _relative(path: Path, root: Path | None) -> str:
    name = path.as_posix() if root is None else Path(os.path.relpath(path, root)).as_posix()
    return unicodedata.normalize("NFC", name)  # moving data to a Mac and back changes the form


def _hash(table: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(table):
        digest.update(f"{name}\0{table[name]}\n".encode())
    return digest.hexdigest()


def differences(stored: Mapping[str, Any], found: Fingerprint) -> list[str]:
    """Return what differs between a run's stored fingerprint and what is found, a line a kind.

    Empty where nothing differs. Lines read ``train: 2 files added: a.png, b.png``, with at most
    three names; a fingerprint that cannot be understood is one line as well.

    Args:
        stored: what ``Fingerprint.as_dict`` gave.
    """
    before = _tables(stored)
    if before is None:
        return ["the stored fingerprint of the data cannot be read"]
    known = {name for table in before.values() for name in table}
    there = {name for table in found.splits.values() for name in table}
    lines, moved = [], []
    for split in sorted({*before, *found.splits}):
        old, new = before.get(split, {}), found.splits.get(split, {})
        moved += [name for name in new if name not in old and name in known]
        kinds = {
            "added": [name for name in new if name not in known],
            "removed": [name for name in old if name not in there],
            "changed": [name for name in new if name in old and new[name] != old[name]],
        }
        lines += [_line(split, kind, sorted(names)) for kind, names in kinds.items() if names]
    if moved:
        lines.append(_line("splits", "now in another", sorted(moved)))
    return lines


def trained_on(stored: Mapping[str, Any], samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples whose picture a run trained on, whatever its name is now.

    Args:
        stored: the run's fingerprint, as ``Fingerprint.as_dict`` gave it.

    Raises:
        UserError: a picture does not exist.
    """
    known = set((_tables(stored) or {}).get("train", {}).values())
    asked = list(samples)
    hashes = facts_of([sample.image for sample in asked], "sha256", content_hash)
    pairs = zip(asked, hashes, strict=True)
    return [sample for sample, content in pairs if _entry(sample.image, content) in known]


def _entry(path: Path, content: str) -> str:
    return f"{os.stat(path).st_size} {content[:_DIGITS]}"


def _tables(stored: Any) -> dict[str, Mapping[str, str]] | None:
    try:
        if stored["schema"] != SCHEMA:
            return None
        tables = {str(split): part["table"] for split, part in stored["splits"].items()}
    except (KeyError, TypeError, AttributeError):
        return None
    if not all(isinstance(table, Mapping) for table in tables.values()):
        return None
    return tables


def _line(split: str, kind: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    files = "file" if len(names) == 1 else "files"
    return f"{split}: {len(names)} {files} {kind}: {', '.join(names[:_SHOWN])}{more}"
