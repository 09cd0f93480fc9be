"""Whether an exported file still says what its detector said; needs no torch."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.data.files import check_regular
from adbench.deploy.decision import Rule
from adbench.deploy.inspector import Engine
from adbench.errors import UserError
from adbench.runs.files import write_beside

REFERENCE = "reference.npz"
TOLERANCE: dict[str, float] = {"fp32": 1e-4, "fp16": 1e-2}  # of the map's range
CASES = ("test", "odd", "black", "white")
_MOST = 1 << 30  # bytes of a reference that is opened


@dataclass(frozen=True, slots=True)
class Reference:
    """Pictures with what the detector in torch said about them.

    Attributes:
        pictures: case -> [B, H, W, 3] uint8; ``test`` at the working size, ``odd`` at another.
        scores: case -> [B].
        maps: case -> [K, H, W] of the first K pictures.
    """

    pictures: Mapping[str, NDArray[np.uint8]]
    scores: Mapping[str, NDArray[np.float32]]
    maps: Mapping[str, NDArray[np.float32]]

    def write(self, path: Path) -> None:
        """Write it as a compressed archive of plain arrays."""
        arrays = {f"{name}_{kind}": values for kind, each in self._parts() for name, values in each}
        with write_beside(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    def _parts(self) -> list[tuple[str, list[tuple[str, NDArray[Any]]]]]:
        parts = ("picture", self.pictures), ("score", self.scores), ("map", self.maps)
        return [(kind, [*each.items()]) for kind, each in parts]


def read_reference(path: Path) -> Reference:
    """Return a stored reference.

    Raises:
        UserError: it is missing, too large, or damaged.
    """
    if check_regular(path, "reference").st_size > _MOST:
        raise UserError(f"{path} is too large")
    try:
        with np.load(path, allow_pickle=False) as found:
            parts = [
                {name: found[f"{name}_{kind}"] for name in CASES}
                for kind in ("picture", "score", "map")
            ]
    except Exception as error:  # zip, zlib and numpy have errors of their own
        told = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is damaged ({told}); export again") from error
    pictures, scores, maps = parts
    for name in CASES:
        if pictures[name].ndim != 4 or pictures[name].dtype != np.uint8 or not len(scores[name]):
            raise UserError(f"{path} is damaged (part {name}); export again")
    return Reference(pictures, scores, maps)


def parity(engine: Engine, reference: Reference, rule: Rule, precision: str) -> dict[str, Any]:
    """Return parity.json's figures: differences of scores and maps, and decisions that flip.

    Test pictures one at a time and eight at a time, a picture of an odd size, a black and a white
    one. ``map`` differences are shares of the range of the test pictures' maps.
    """
    values = reference.maps["test"]
    span = max(float(values.max()) - float(values.min()), 1e-12)
    cases: dict[str, Any] = {}
    found, maps = _answers(engine, reference.pictures["test"], 1)
    cases["batch 1"] = _differences(reference, "test", found, maps, span)
    by_eight, maps = _answers(engine, reference.pictures["test"], 8)
    cases["batch 8"] = _differences(reference, "test", by_eight, maps, span)
    for name in CASES[1:]:
        cases[name] = _differences(
            reference, name, *_answers(engine, reference.pictures[name], 1), span
        )
    worst = max(max(case["map_max"], case["score_max"] / span) for case in cases.values())
    tolerance = TOLERANCE.get(precision)
    return {
        "cases": cases,
        "map_range": span,
        "tolerance": tolerance,
        "worst": worst,
        "met": None if tolerance is None else bool(worst <= tolerance),
        "decisions": _flips(rule, reference.scores["test"], found),
        "engine": engine.name,
        "machine": machine(),
    }


def _answers(
    engine: Engine, pictures: NDArray[np.uint8], batch: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    scores, maps = [], []
    for start in range(0, len(pictures), batch):
        found, values = engine(pictures[start : start + batch])
        scores.append(found)
        maps.append(values)
    return np.concatenate(scores), np.concatenate(maps)


def _differences(
    reference: Reference,
    name: str,
    scores: NDArray[np.float32],
    maps: NDArray[np.float32],
    span: float,
) -> dict[str, float]:
    told = reference.maps[name]
    if maps[: len(told)].shape != told.shape:
        raise UserError(f"maps of {list(maps.shape[1:])} instead of {list(told.shape[1:])} px")
    apart = np.abs(scores.astype(np.float64) - reference.scores[name])
    shares = np.abs(maps[: len(told)].astype(np.float64) - told) / span
    return {
        "score_max": float(apart.max()),
        "score_p99": float(np.quantile(apart, 0.99)),
        "map_max": float(shares.max()),
        "map_p99": float(np.quantile(shares, 0.99)),
    }


def _flips(
    rule: Rule, before: NDArray[np.float32], after: NDArray[np.float32]
) -> dict[str, Any] | None:
    """Return how many decisions differ; None where the run has no threshold."""
    value = rule.stored.threshold.value
    if value is None:
        return None
    flips = (before > value) != (after > value)
    return {"pictures": len(before), "flips": int(flips.sum()), "threshold": value}


def machine() -> dict[str, Any]:
    """Return what results may depend on: system, processor, and its vector units."""
    flags: list[str] = []
    cpu = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if cpu.exists():
        for line in cpu.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() == "flags":
                known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")
                flags = [flag for flag in known if flag in value.split()]
                break
    return {"system": platform.platform(), "processor": name, "flags": flags}
