"""Which pictures a run saw, so that a later one can tell whether they are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adbench.data.sample import Sample


@dataclass(frozen=True, slots=True)
class Fingerprint:
    files: dict[str, dict[str, str]]

    def as_dict(self) -> dict[str, Any]:
        return {"files": self.files}


def fingerprint(samples: Sequence[Sample]) -> Fingerprint:
    found: dict[str, dict[str, str]] = {}
    for sample in samples:
        for path in (sample.image, *sample.masks):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
            name = (
                f"{sample.relative}"
                if path == sample.image
                else f"mask {path.name} of {sample.relative}"
            )
            found.setdefault(sample.split, {})[name] = digest
    return Fingerprint(found)


def differences(stored: Mapping[str, Any], found: Fingerprint) -> list[str]:
    return [] if stored.get("files") == found.files else ["the pictures differ"]


def trained_on(stored: Mapping[str, Any], samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples whose pictures a run trained on, whatever their names are now."""
    files = stored.get("files")
    known = files.get("train", {}).values() if isinstance(files, Mapping) else ()
    seen = set(known)
    return [s for s in samples if hashlib.sha256(s.image.read_bytes()).hexdigest()[:16] in seen]
