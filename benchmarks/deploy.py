"""What the deployment must show, measured: speed, equal scores, a service under load, a long run.

    python benchmarks/deploy.py speed --weights RESNET18 [--channels-last] [--peers]
    python benchmarks/deploy.py equal RUN ...
    python benchmarks/deploy.py service RUN [--requests 2000] [--share 0.5]
    python benchmarks/deploy.py predict RUN [--pictures 5000]
    python benchmarks/deploy.py watch RUN [--pictures 500]

Every part prints one JSON document.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.deploy_load import Load, children, quarters, resident, watch_memory
from benchmarks.deploy_speed import say, speed
from tests.deploy.http import Served


def equal(options):
    """Scores of the detector, reloaded, ONNX, OpenVINO, its worker and HTTP, the same pictures."""
    from tests.deploy.equal import scores_by_everything

    runs = {Path(name).name: Path(name).absolute() for name in options.runs}
    served = Served(f"run=[{','.join(f'{name}:{path}' for name, path in runs.items())}]")
    found = {}
    for name, run in runs.items():
        say(name)
        files, stored = run_pictures(run)
        files = [files[i] for i in np.linspace(0, len(files) - 1, options.pictures).astype(int)]
        with tempfile.TemporaryDirectory() as folder:
            scores = scores_by_everything(run, name, files, Path(folder))
        where = f"/v1/score?run={name}"
        scores["http"] = [
            served.call("POST", where, path.read_bytes())[2]["score"] for path in files
        ]
        first = np.array([stored[path] for path in files])
        found[name] = {
            "pictures": len(files),
            "scores": [float(first.min()), float(first.max())],
            **{kind: float(np.abs(np.array(each) - first).max()) for kind, each in scores.items()},
        }
    served.end()
    return found


def run_pictures(run):
    """Return the run's test pictures as files, and path -> stored score."""
    import yaml

    from adbench.config.schema import settings
    from adbench.data.opening import chosen_categories, read_samples

    config = yaml.safe_load((run / "config.yaml").read_text())
    keys = settings(config).dataset
    samples = {s.relative: s.image for s in read_samples(keys, chosen_categories(keys))}
    with open(run / "predictions.csv", newline="") as lines:
        rows = {samples[row["path"]]: float(row["score"]) for row in csv.DictReader(lines)}
    return list(rows), rows


def service(options):
    """A service of two workers: alone, at its best, under a load it can carry, beyond it, killed.

    Capacity is what as many clients as pictures may wait get through without a pause. The load that
    is carried comes open-loop: arrivals by a Poisson process at a share of the capacity, taken by
    16 clients; latency counts from the arrival, so that a client that is late hides nothing. All
    three are measured block by block, so that a machine that slows down slows all of them, and
    each latency is told as a multiple of its block's median alone.
    """
    run = Path(options.run).absolute()
    files, stored = run_pictures(run)
    files = files[:40]
    bodies = {path: path.read_bytes() for path in files}
    limits = ("queue=8", "head_seconds=1", "body_seconds=1", "max_pixels=4000000")
    served = Served(f"run={run}", "workers=2", *limits)
    load = Load(served, bodies, stored)
    load.burst(files[:1] * 40, clients=8)
    memory, stop = [], threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(served, memory, stop))
    watcher.start()
    blocks = []
    for _ in range(options.blocks):
        alone = load.burst(load.jobs(8, bad=0), clients=1)
        best = load.burst(load.jobs(32, bad=0), clients=8)
        rate = options.share * best["requests_per_second"]
        jobs = load.jobs(options.requests // options.blocks, bad=0.05)
        blocks.append((alone, best, load.arriving(jobs, clients=16, rate=rate)))
        told = alone["p50_ms"], blocks[-1][2]["p95_ms"]
        say("block {}: alone {:.0f} ms, carried p95 {:.0f} ms".format(len(blocks), *told))
    stop.set()
    watcher.join()
    found = {"carried": carried(blocks), "share_of_capacity": options.share}
    found["memory_mib"] = quarters(memory)
    found["beyond"] = load.burst(load.jobs(options.requests // 10, bad=0.05), clients=16)
    before = children(served.process.pid)
    waiting = threading.Timer(1.0, os.kill, (before[0], signal.SIGKILL))
    waiting.start()
    found["one of two workers killed"] = load.burst(load.jobs(120, bad=0), clients=8)
    end = time.monotonic() + 60
    while before[0] in children(served.process.pid) or len(children(served.process.pid)) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    found["after"] = load.burst(load.jobs(30, bad=0), clients=8)
    served.end()
    return found


def carried(blocks):
    """Return what became of the requests of all blocks, and latency as multiples of alone."""
    multiples = [ms / alone["p50_ms"] for alone, _, block in blocks for ms in block.pop("all_ms")]
    parts = [block for _, _, block in blocks]
    counted = ("requests", "wrong_scores", "bad", "bad_with_4xx")
    return {
        **{name: sum(part[name] for part in parts) for name in counted},
        "good": {s: sum(p["good"].get(s, 0) for p in parts) for p in parts for s in p["good"]},
        "alone_p50_ms": float(np.median([alone["p50_ms"] for alone, _, _ in blocks])),
        "capacity_per_second": float(np.median([b["requests_per_second"] for _, b, _ in blocks])),
        **{f"p{q}_of_alone": float(np.quantile(multiples, q / 100)) for q in (50, 95, 99)},
    }


def predict(options):
    """Many pictures through the verb: memory after the first 500, rate beside benchmark's.

    benchmark measures before and after: a machine that others use is not as fast all the time.
    """
    run = Path(options.run).absolute()
    files, _ = run_pictures(run)
    ends = [end_to_end_rate(run)]
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        source.mkdir()
        copy_many(files, source, options.pictures)
        command = ["predict", f"run={run}", f"source={source}", f"out={out}", "threads=1"]
        process = subprocess.Popen([sys.executable, "-m", "adbench", *command])
        series = []
        while process.poll() is None:
            table = out / "scores.csv"
            done = table.read_bytes().count(b"\n") - 1 if table.exists() else 0
            series.append((done, resident(process.pid)))
            time.sleep(0.5)
        record = json.loads((out / "predict.json").read_text())
    ends.append(end_to_end_rate(run))
    rate = record["last"]["images_per_second"]
    memory = [mib for done, mib in series if done >= 500 and mib > 0]
    return {
        "exit": process.returncode,
        "counts": record["counts"],
        "images_per_second": rate,
        "benchmark_end_to_end": ends,
        "share": rate / float(np.mean(ends)),
        "memory_mib_after_500": quarters(memory),
        "memory_growth_mib": round(memory[-1] - memory[0], 1),
    }


def end_to_end_rate(run):
    """Return benchmark's images/s from files to verdicts, batch 8, in a process of its own."""
    words = ["engines=[eager]", "batches=[8]", "threads=1", "rounds=3", "seconds=5"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        command = [sys.executable, "-m", "adbench", "benchmark", f"run={run}", *words]
        subprocess.run([*command, f"out={out}"], check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())["end_to_end"]["eager"]["images_per_second"]


def copy_many(files, source, count):
    """Write ``count`` PNG files, each another one: the run's pictures, a pixel changed."""
    pixels = [cv2.imread(os.fspath(path)) for path in files[:50]]
    for number in range(count):
        picture = pixels[number % len(pixels)].copy()
        picture[number % picture.shape[0], (number // 50) % picture.shape[1]] ^= 1
        cv2.imwrite(str(source / f"{number:05d}.png"), picture)


def watch(options):
    """A watched folder: bursts, a kill -9 in the middle, each file judged exactly once."""
    run = Path(options.run).absolute()
    files, _ = run_pictures(run)
    with tempfile.TemporaryDirectory() as folder:
        made, source, out = (Path(folder) / name for name in ("made", "source", "out"))
        made.mkdir()
        source.mkdir()
        copy_many(files, made, options.pictures)
        command = ["predict", f"run={run}", f"source={source}", f"out={out}", "watch=true"]
        command += ["settle=0.3", "poll=0.1", "idle=5", "stdout=true", "threads=1"]
        lines, killed = [], 0
        process = started(command, lines)
        for number, path in enumerate(sorted(made.iterdir())):
            (source / path.name).write_bytes(path.read_bytes())
            if number % 50 == 49:
                time.sleep(1.0)
            if number == options.pictures // 2:
                while not (out / "scores.csv").exists() or len(lines) < 20:
                    time.sleep(0.1)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                killed = len(lines)
                process = started(command, lines)
        code = process.wait()
        time.sleep(0.5)
        with open(out / "scores.csv", newline="") as table:
            rows = list(csv.DictReader(table))
    names = [row["source"] for row in rows]
    told = [json.loads(line)["id"] for line in lines if line.endswith("}\n")]
    return {
        "exit": code,
        "files": options.pictures,
        "lines_before_kill": killed,
        "rows": len(rows),
        "distinct_files": len(set(names)),
        "errors": sum(row["verdict"] == "error" for row in rows),
        "told_on_stdout": len(told),
        "told_distinct": len(set(told)),
    }


def started(command, lines):
    process = subprocess.Popen(
        [sys.executable, "-m", "adbench", *command], stdout=subprocess.PIPE, text=True
    )
    threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
    return process


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("speed")
    part.add_argument("--weights", required=True)
    part.add_argument("--seconds", type=float, default=10)
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--engines", default="eager,onnx,openvino")
    part.add_argument("--widths", type=int, nargs="+", default=[0, 1])
    part.add_argument("--peers", action="store_true")
    part.add_argument("--channels-last", action="store_true")
    part.add_argument("--cpu-time", action="store_true", help="with --threads 1: others work too")
    part = parts.add_parser("equal")
    part.add_argument("runs", nargs="+")
    part.add_argument("--pictures", type=int, default=16)
    for name, defaults in (
        ("service", {"requests": 2000, "share": 0.5, "blocks": 10}),
        ("predict", {"pictures": 5000}),
        ("watch", {"pictures": 500}),
    ):
        part = parts.add_parser(name)
        part.add_argument("run")
        for option, default in defaults.items():
            part.add_argument(f"--{option}", type=type(default), default=default)
    options = parser.parse_args()
    called = {part.__name__: part for part in (speed, equal, service, predict, watch)}
    print(json.dumps(called[options.part](options), indent=2))


if __name__ == "__main__":
    main()
