"""How adbench answers what it cannot mean: a walk over all keys, a sample of it as processes.

    python benchmarks/bad_inputs.py [--processes 60] [--seed 0]

In this process every key of every group option gets 22 values and a misspelt name. A sample of
the same inputs, and words for the other verbs, are then typed as processes. Printed: how many were
answered right (one line that names the culprit, exit code 2), how many wrong.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.config import walk

OTHER_VERBS = [
    *[["sweep", "seed=1,2", word] for word in ("sweep.jobs=0", "sweep.jobs=x", "sweep.name=../x")],
    *[["sweep", "seed=1,2", word] for word in ("sweep.rows={a:5}", "sweep.timeout_minutes=-1")],
    *[
        ["synthesize", word]
        for word in ("n=0", "n=x", "split=none", "batch_size=-1", "synthesis=x")
    ],
    *[
        ["distill", word]
        for word in ("steps=0", "objective=x", "device=mps", "lr=nan", "teacher=x")
    ],
    *[["test", word] for word in ("run=nowhere", "run=", "seed=1", "run=/dev/null")],
    *[["runs", word] for word in ("root=nowhere", "modle=x", "x")],
    *[["data", word] for word in ("chek", "list x", "check full=perhaps")],
    *[["info", "x"], ["completion", "tcsh"], ["trian"], ["train", "--fast"], ["train", "a b=c"]],
    *[["train", word] for word in ("model=null", "~seed", "=x", "seed=1,2", "hydra.verbose=true")],
    *[["train", word] for word in ("hardware=gpu", "accelerator=mps", "model._target_=os.system")],
    *[["train", "model=dfr", "model.latent=99999"], ["train", "dataset.root=\x1b[31m"]],
]


def walked() -> tuple[Counter[str], list[walk.Case]]:
    """Return counts of the whole walk, and the inputs that are refused."""
    configs = {choices: config for choices, config, _ in walk.bases()}
    counts: Counter[str] = Counter()
    refused = []
    for case in walk.cases():
        try:
            told = walk.answer(case, configs[case.choices])
        except Exception as error:
            counts["traceback"] += 1
            print(f"TRACEBACK {case.choices} {case.word}: {error!r}")
            continue
        counts["accepted" if told is None else "refused"] += 1
        if told is None and case.must_be_refused:
            counts["taken silently"] += 1
        elif told is not None and not walk.names_culprit(case, told):
            counts["culprit not named"] += 1
        if told is not None:
            refused.append(case)
    return counts, refused


def typed(words: list[str], folder: str) -> str:
    """Return what is wrong with a process's answer; empty where nothing is."""
    start = time.perf_counter()
    try:
        run = subprocess.run(
            [sys.executable, "-m", "adbench", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    seconds = time.perf_counter() - start
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    if "Traceback" in run.stderr or run.returncode == 70:
        return f"traceback: {lines[-1]}"
    if run.returncode != 2 or len(lines) != 1 or not lines[0].startswith("adbench: "):
        return f"exit code {run.returncode}, {len(lines)} lines: {lines[:2]}"
    return f"slow ({seconds:.1f} s)" if seconds > 5 else ""


def main() -> None:
    """Walk, then type a sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts, refused = walked()
    total = counts["accepted"] + counts["refused"] + counts["traceback"]
    wrong = counts["traceback"] + counts["taken silently"] + counts["culprit not named"]
    print(f"walk: {total} inputs, {counts['refused']} refused, {counts['accepted']} accepted")
    print(f"walk: {total - wrong} right, {wrong} wrong {dict(counts)}")
    sample = random.Random(given.seed).sample(refused, given.processes)
    commands = [["train", *case.choices, case.word] for case in sample] + OTHER_VERBS
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for words in commands:
            told = typed(words, folder)
            if told:
                bad += 1
                print(f"WRONG {words}: {told}")
    print(f"processes: {len(commands)} inputs, {len(commands) - bad} right, {bad} wrong")
    sys.exit(1 if wrong or bad else 0)


if __name__ == "__main__":
    main()
