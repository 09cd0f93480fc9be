"""One sweep of 12 cells under every launcher, a worker killed in the middle of each.

    python benchmarks/launchers.py local joblib submitit ray --root FOLDER
    python benchmarks/launchers.py speed --root FOLDER     one worker against two, a core each

Two models x two categories of the demo set x three seeds, tiny. Prints for each launcher whether
all cells finished, what was killed, and the largest difference of any figure to the first one's.
`ray` starts a cluster of two nodes on this machine, with half of the cells each, and ends it.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

CELLS = [
    *("model=padim,simplenet", "dataset=demo", "dataset.category=metal,box", "seed=1,2,3"),
    *("backbone=bundled", "dataset.image_size=64", "dataset.limit=12", "images.save=0"),
    *("train.epochs=2", "train.batch_size=4", "hardware=cpu", "hardware.threads=1", "plain=true"),
]
LAUNCHERS = {
    "local": ["launcher=local"],
    "joblib": ["launcher=joblib"],
    "submitit": ["launcher=submitit", "launcher.executor=local"],
    "ray": ["launcher=ray"],
}
FIGURES = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro_30", "aupro_05")


def sweep(root: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "adbench", "sweep", *CELLS, *words]
    command += [f"run.root={root}", "sweep.name=s"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def cell_processes(root: Path) -> list[int]:
    """Return the ids of processes that train below ``root``."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"train" in words and f"run.root={root}".encode() in words:
                found.append(int(entry.name))
    return found


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def kill_one(root: Path, launcher: str, killed: list[str]) -> None:
    """Kill the cell's process (local), or the worker that started it, once three cells are done."""
    end = time.monotonic() + 1200
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if len(finished(root)) >= 3 and (found := cell_processes(root)):
                victim = found[0] if launcher == "local" else parent_of(found[0])
                name = Path(f"/proc/{victim}/cmdline").read_bytes().replace(b"\0", b" ")[:60]
                os.kill(victim, signal.SIGKILL)
                killed.append(name.decode(errors="replace").strip())
                return
        time.sleep(0.1)


def finished(root: Path) -> dict[tuple[str, ...], list[float]]:
    """Return (model, category, seed) -> figures of what the table has."""
    path = root / "sweeps/s/sweep.csv"
    if not path.is_file():
        return {}
    with open(path) as lines:
        rows = [row for row in csv.DictReader(lines) if row["status"] == "finished"]
    keys = ("model", "dataset.category", "seed")
    return {tuple(r[k] for k in keys): [float(r[name]) for name in FIGURES] for r in rows}


@contextlib.contextmanager
def cluster(launcher: str, jobs: int):
    """Yield further words; two nodes of ray on this machine, where they are asked for."""
    if launcher != "ray":
        yield []
        return
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    from ray.cluster_utils import Cluster

    node = {"num_cpus": jobs // 2, "object_store_memory": 100_000_000}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        found.add_node(**node)
        yield [f"launcher.address={found.address}"]
    finally:
        found.shutdown()


def compared(root: Path, names: list[str], jobs: int) -> None:
    first: dict[tuple[str, ...], list[float]] = {}
    for name in names:
        place = (root / name).resolve()
        killed: list[str] = []
        with cluster(name, jobs) as more:
            start = time.monotonic()
            process = sweep(place, *LAUNCHERS[name], f"sweep.jobs={jobs}", *more)
            killer = threading.Thread(target=kill_one, args=(place, name, killed), daemon=True)
            killer.start()
            _, told = process.communicate()
            seconds = time.monotonic() - start
        found = finished(place)
        first = first or found
        worst = max(
            (abs(a - b) for cell in found for a, b in zip(found[cell], first[cell], strict=True)),
            default=float("nan"),
        )
        again = [line for line in told.splitlines() if "started again" in line]
        print(
            f"{name}: exit {process.returncode}, {len(found)} of 12 finished in {seconds:.0f} s, "
            f"largest difference {worst:.1e}; killed: {killed}"
        )
        print("".join(f"    {line}\n" for line in again), end="", flush=True)
        if process.returncode:
            print(told)


def speed(root: Path) -> None:
    took = {}
    for jobs in (1, 2):
        start = time.monotonic()
        process = sweep((root / f"jobs{jobs}").resolve(), f"sweep.jobs={jobs}")
        process.communicate()
        took[jobs] = time.monotonic() - start
        print(f"{jobs} at a time: exit {process.returncode}, {took[jobs]:.1f} s", flush=True)
    print(f"{took[1] / took[2]:.2f} times as fast")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=[*LAUNCHERS, "speed"])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, an even number")
    given = parser.parse_args()
    if "speed" in given.what:
        speed(given.root)
    compared(given.root, [name for name in given.what if name != "speed"], given.jobs)


if __name__ == "__main__":
    main()
