"""Kills, terminations and interrupts at random moments: does the same command end as if none were?

    python benchmarks/kills.py [--kills 30] [--seed 0]

A tiny method with a stage is trained; runs, stages and sweep controllers are ended by SIGKILL,
SIGTERM or SIGINT at random moments, and at the instants when last.ckpt and detector.safetensors
take their names. Each is then started again until it is done. Printed: how many ended with exactly
the uninterrupted figures, without leftovers and without a cell that counts as failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.e2e.verbs import environment, tiny_data, toy  # noqa: E402

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Ends the process when a file takes its name: before or after the renaming.
AT_RENAMING = """
import os, signal, sys
rename = os.replace
def replaced(source, target):
    if str(target).endswith({name!r}):
        if {before}:
            os.kill(os.getpid(), {number})
        rename(source, target)
        os.kill(os.getpid(), {number})
    rename(source, target)
os.replace = replaced
from adbench.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def command(verb: str, words: list[str]) -> list[str]:
    """Return the command line of a verb."""
    return [sys.executable, "-m", "adbench", verb, *words]


def run(line: list[str], folder: Path) -> int:
    """Run to the end; return the exit code."""
    return subprocess.run(
        line, cwd=folder, env=environment(TOY_STAGE_SECONDS="1"), capture_output=True
    ).returncode


def ended(line: list[str], folder: Path, number: int, seconds: float) -> None:
    """Start, and send a signal after so long."""
    process = subprocess.Popen(
        line,
        cwd=folder,
        env=environment(TOY_STAGE_SECONDS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, number)
        process.wait(timeout=60)


def figures(folder: Path) -> list[dict]:
    """Return metrics.json of every run below, without seconds."""
    found = []
    for path in sorted(folder.glob("outputs/*/*/*/*/metrics.json")):
        document = json.loads(path.read_text())
        document.pop("seconds")
        found.append(document)
    return found


def faults(folder: Path, reference: list[dict]) -> list[str]:
    """Return what differs from an uninterrupted run."""
    told = [] if figures(folder) == reference else ["other figures"]
    told += [f"left over: {path.name}" for path in folder.rglob(".*") if ".tmp" in path.name]
    for path in folder.glob("outputs/*/*/*/*/run.json"):
        status = json.loads(path.read_text())["status"]
        told += [] if status == "finished" else [f"status {status}"]
    for path in folder.glob("outputs/sweeps/*/sweep.json"):
        states = [cell["status"] for cell in json.loads(path.read_text())["cells"]]
        told += [] if set(states) == {"finished"} else [f"cells {states}"]
    return told


def trial(kind: str, words: list[str], length: float, rng: random.Random, folder: Path) -> str:
    """End one process at a random moment, one more a third of the time; return what was done."""
    number = rng.choice(SIGNALS)
    name = signal.Signals(number).name
    if kind in ("last.ckpt", "detector.safetensors"):
        before = rng.random() < 0.5
        code = AT_RENAMING.format(name=kind, before=before, number=int(number))
        run([sys.executable, "-c", code, "train", *words], folder)
        return f"{name} {'before' if before else 'after'} {kind} is renamed"
    verb = "sweep" if kind == "sweep" else "train"
    moment = rng.uniform(0.5, length)
    ended(command(verb, words), folder, number, moment)
    if rng.random() < 0.33:
        ended(command(verb, words), folder, rng.choice(SIGNALS), rng.uniform(0.5, length))
    return f"{name} of a {kind} after {moment:.1f} s"


def main() -> None:
    """Measure the references, then try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    kinds = ("run", "sweep", "run", "last.ckpt", "sweep", "detector.safetensors")
    bad = 0
    with tempfile.TemporaryDirectory() as base:
        place = Path(base)
        data = tiny_data(place / "data")
        one = toy(data, "dataset.category=nut", "run.name=x", model="toy_staged")
        many = toy(data, "dataset.category=nut", "seed=0,1", "sweep.name=s", model="toy_staged")
        known = {}
        for verb, words in (("train", one), ("sweep", many)):
            folder = place / verb
            folder.mkdir()
            start = time.monotonic()
            assert run(command(verb, words), folder) == 0
            known[verb] = (figures(folder), time.monotonic() - start)
        for number in range(given.kills):
            kind = kinds[number % len(kinds)]
            verb = "sweep" if kind == "sweep" else "train"
            words, (reference, length) = (many if verb == "sweep" else one), known[verb]
            folder = place / str(number)
            folder.mkdir()
            done = trial(kind, words, length, rng, folder)
            code = run(command(verb, words), folder)
            told = [] if code == 0 else [f"exit code {code}"]
            told += faults(folder, reference)
            bad += bool(told)
            print(f"{number + 1:3d} {done}: {'; '.join(told) or 'as if uninterrupted'}", flush=True)
            shutil.rmtree(folder)
    print(f"{given.kills} times, {given.kills - bad} ended as if uninterrupted, {bad} did not")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
