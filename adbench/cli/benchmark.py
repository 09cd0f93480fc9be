"""``adbench benchmark``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import print_table, say
from adbench.config.plain import plain_keys
from adbench.deploy.settings import BenchmarkKeys

HELP = """usage: adbench benchmark run=FOLDER [engines=[eager,onnx]] [batches=[1,8]]
       adbench benchmark model=FILE                          of an export
       adbench benchmark compare=NEW.json against=OLD.json   exit code 1 where something is slower

Images per second and latency (p50, p95, p99) of the network alone and from files to verdicts,
beside the bare backbone cut at the same layer, in the same run, round by round. The last line is
the JSON file.

  batches=[1,4,8,16]         rounds=7 seconds=1 threads=2 device=cpu|gpu
  peers=anomalib             its model of the same name beside ours (extra baselines)
  out=FILE.json              where; else benchmark.json in the run folder
  tolerance=0.1              of compare=: slower by more is a regression

conf/benchmark.yaml has every key."""


def run(words: Sequence[str]) -> int:
    """Measure or compare; the last line on stdout is the file."""
    keys = plain_keys(BenchmarkKeys, parsed_arguments(words).overrides, "benchmark")
    if keys.compare is not None:
        return _compared(keys)
    from adbench.runs.files import write_json

    if keys.model is not None:
        from adbench.deploy.benchmark_export import benchmark_export

        place = Path(keys.model).expanduser()
        document = benchmark_export(place, keys, say)
        below = place if place.is_dir() else place.parent
    else:
        from adbench.runs.folder import open_run

        below = open_run(str(keys.run))[0].path
        from adbench.deploy.benchmark import benchmark

        document = benchmark(below, keys, say)
    out = Path(keys.out).expanduser() if keys.out else below / "benchmark.json"
    write_json(out, document)
    _show(document, plain=keys.plain)
    print(out)
    return 0


def _show(document: Mapping[str, Any], *, plain: bool) -> None:
    rows = []
    for batch, entries in document["network"].items():
        for kind, entry in entries.items():
            rows.append(_row(f"{kind}, batch {batch}", entry))
    for kind, entry in document["end_to_end"].items():
        rows.append(_row(f"{kind}, end to end, batch {entry['batch']}", entry))
    height, width = document["size"]
    title = (
        f"{document['model']}, {height}x{width} px, {document['dtype']}, {document['device']}, "
        f"{document['threads']} threads, {document['machine']['processor']}; "
        f"peak memory {document['peak_memory'] / 2**20:.0f} MiB"
    )
    header = ["engine", "images/s", "p50 ms", "p95 ms", "p99 ms", "of bare backbone"]
    print_table(title, header, rows, plain=plain)
    for kind, why in document["absent"].items():
        say(f"{kind}: not measured: {why}")
    for batch, entries in document.get("peers", {}).get("network", {}).items():
        ours = entries["adbench"]["images_per_second"]
        for kind, entry in entries.items():
            if kind != "adbench":
                rate = entry["images_per_second"]
                say(
                    f"batch {batch}: adbench {ours:.1f}, {kind} {rate:.1f}: {ours / rate:.2f} times"
                )


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    share = entry.get("of_bare_backbone")
    return [
        name,
        f"{entry['images_per_second']:.1f}",
        *[f"{entry[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms")],
        "" if share is None else f"{share:.3f}",
    ]


def _compared(keys: BenchmarkKeys) -> int:
    from adbench.deploy.regression import compared
    from adbench.runs.files import read_record

    new, old = (read_record(Path(str(name)).expanduser()) for name in (keys.compare, keys.against))
    rows = compared(new, old, keys.tolerance)
    header = ["measurement", "before", "now", "ratio", ""]
    print_table("images per second", header, rows, plain=keys.plain)
    slower = [row[0] for row in rows if row[4] == "slower"]
    if slower:
        say(f"slower by more than {keys.tolerance:.0%}: {', '.join(slower)}")
    return 1 if slower else 0
