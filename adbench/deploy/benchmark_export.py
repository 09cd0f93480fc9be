"""The same measurement of an exported file, where there may be no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adbench.deploy.measuring import best_batches, end_to_end, measured
from adbench.deploy.parity import machine
from adbench.deploy.runtime import inspector_of_export
from adbench.deploy.settings import BenchmarkKeys
from adbench.runs.environment import peak_memory, versions


def benchmark_export(path: Path, keys: BenchmarkKeys, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the document of one measurement of an export; the bare backbone needs the run."""
    inspector = inspector_of_export(path, keys.threads)
    kind, size = inspector.engine.name, inspector.reading.size
    network = {}
    for batch in keys.batches:
        say(f"batch {batch}: {kind}")
        network[str(batch)] = measured({kind: inspector.engine}, size, batch, keys)
    best = best_batches(network)
    return {
        "schema": 1,
        "model": inspector.model,
        "size": list(size),
        "dtype": inspector.model.rpartition(":")[2],
        "device": "cpu",
        "threads": keys.threads,
        "rounds": keys.rounds,
        "versions": versions(),
        "machine": machine(),
        "absent": {"bare backbone": "an export does not hold it apart: benchmark run=FOLDER"},
        "network": network,
        "end_to_end": {kind: end_to_end(inspector, best[kind], keys.seconds)},
        "best_batch": best,
        "peak_memory": peak_memory(),
    }
