"""Rates and latencies by the clock: warmed up, in turns, medians over rounds; free of torch."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.deploy.inspector import Inspector
from adbench.deploy.settings import BenchmarkKeys
from adbench.deploy.sources import pictures_below
from adbench.deploy.stream import Ahead, decoded

_LATENCIES = 60  # calls at batch 1 whose quantiles are told
_PICTURES = 64  # files of the end-to-end measurement


def measured(
    subjects: Mapping[str, Callable[[NDArray[np.uint8]], Any]],
    size: tuple[int, int],
    batch: int,
    keys: BenchmarkKeys,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Return images/s (median of rounds) of each subject, and quantiles of latency.

    Args:
        clock: seconds; ``time.process_time`` where others use the machine and one thread is used.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    calls = {}
    for kind, subject in subjects.items():  # warm up, and find how many calls make a round
        subject(images)
        start = clock()
        subject(images)
        once = clock() - start
        calls[kind] = max(1, round(keys.seconds / keys.rounds / max(once, 1e-6)))
    rounds: dict[str, list[float]] = {kind: [] for kind in subjects}
    single: dict[str, list[float]] = {kind: [] for kind in subjects}
    gc.disable()
    try:
        for _ in range(keys.rounds):
            for kind, subject in subjects.items():
                begun = clock()
                for _ in range(calls[kind]):
                    start = clock()
                    subject(images)
                    single[kind].append(clock() - start)
                rounds[kind].append((clock() - begun) / calls[kind])
    finally:
        gc.enable()
    bare = rounds.get("bare backbone")
    return {
        kind: {
            "images_per_second": batch / float(np.median(times)),
            **_quantiles(single[kind]),
            "of_bare_backbone": float(np.median(np.array(bare) / np.array(times)))
            if bare
            else None,
            "calls": len(single[kind]),
        }
        for kind, times in rounds.items()
    }


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{q}_ms": 1000 * float(np.quantile(np.array(seconds), q / 100)) for q in (50, 95, 99)}


def best_batches(network: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return the batch with the most images/s of each subject."""
    kinds = next(iter(network.values()))
    return {
        kind: int(max(network, key=lambda batch: network[batch][kind]["images_per_second"]))
        for kind in kinds
    }


def end_to_end(inspector: Inspector, batch: int, seconds: float) -> dict[str, Any]:
    """Return images/s from PNG files to verdicts, decoding beside scoring, and latency of one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_pictures(folder, inspector.reading.size)

        def once() -> int:
            count = 0
            ahead = Ahead(
                pictures_below(folder, folder / "none"),
                lambda item: decoded(item, inspector.reading, 1 << 30, view=False),
                depth=2 * batch,
            )
            for found in ahead.batches(batch):
                count += len(inspector.judged([d.picture for d in found if d.picture is not None]))
            return count

        once()
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < max(seconds, 0.5):
            count += once()
        rate = count / (time.perf_counter() - start)
        single = []
        item = next(pictures_below(folder, folder / "none"))
        for _ in range(_LATENCIES):
            begun = time.perf_counter()
            picture = decoded(item, inspector.reading, 1 << 30, view=False).picture
            assert picture is not None
            inspector.judged([picture])
            single.append(time.perf_counter() - begun)
            if time.perf_counter() - start > 4 * seconds + 2:
                break
    return {"images_per_second": rate, "batch": batch, **_quantiles(single), "file": "PNG"}


def _write_pictures(folder: Path, size: tuple[int, int]) -> None:
    """Write pictures with an edge, a slope and noise, 1.25 times the working size."""
    rng = np.random.default_rng(0)
    height, width = (round(1.25 * side) for side in size)
    slope = np.linspace(60, 180, width)[None, :, None] + np.zeros((height, 1, 3))
    for number in range(_PICTURES):
        noisy = slope + rng.normal(0, 6, slope.shape)
        noisy[height // 3 : height // 2] += 40
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), noisy.clip(0, 255).astype(np.uint8))
