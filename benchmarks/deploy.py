"""What the deployment must show, measured: speed, equal scores, a service under load, a long run.

    python benchmarks/deploy.py speed --weights RESNET18 [--seconds 2]
    python benchmarks/deploy.py equal RUN ...
    python benchmarks/deploy.py service RUN [--requests 2000]
    python benchmarks/deploy.py predict RUN [--pictures 5000]
    python benchmarks/deploy.py watch RUN [--pictures 500]

Every part prints one JSON document.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from adbench.config.plain import plain_keys
from adbench.deploy.settings import BenchmarkKeys
from tests.deploy.http import Served


def say(line):
    print(line, file=sys.stderr, flush=True)


def speed(options):
    """GLASS on ResNet-18, 256 px, batch 8, untrained head: its arithmetic is a trained one's."""
    import torch

    from adbench.backbones import build_backbone
    from adbench.deploy.benchmark import benchmark
    from adbench.methods.base import save_detector
    from adbench.methods.glass.detector import GlassDetector

    torch.manual_seed(0)
    made = {"layers": ["layer2", "layer3"], "weights": options.weights}
    backbone = build_backbone("resnet18.tv_in1k", **made)
    found = {}
    for hidden in (512, 1024):
        detector = GlassDetector(
            backbone.config, (256, 256), embed=options.embed, hidden=hidden, extractor=backbone
        )
        for buffer in (detector.weight, detector.bias, detector.output):
            buffer.normal_(std=0.05)
        with tempfile.TemporaryDirectory() as folder:
            pictures = {"size": [256, 256], "fit": "squash", "bits": None}
            save_detector(detector, Path(folder), pictures)
            document = {"schema": 1, "value": 0.5, "source": "untrained", "pixel": 0.5}
            document |= {"expected_false_alarm_rate": None, "held_out_scores": []}
            (Path(folder) / "threshold.json").write_text(json.dumps(document))
            words = [f"run={folder}", "batches=[8]", "rounds=7", f"threads={options.threads}"]
            words += [f"seconds={options.seconds}", "engines=[eager,onnx,openvino]"]
            words += ["peers=anomalib"] if options.peers else []
            told = benchmark(Path(folder), plain_keys(BenchmarkKeys, words, "benchmark"), say)
        found[f"hidden {hidden}"] = {
            "network": told["network"]["8"],
            "peers": told.get("peers"),
            "machine": told["machine"],
            "threads": told["threads"],
        }
    return found


def equal(options):
    """Scores of the detector, reloaded, ONNX, OpenVINO and the service, for the same pictures."""
    import adbench
    from adbench.cli.main import main

    found = {}
    for name in options.runs:
        run = Path(name)
        files, stored = run_pictures(run)
        files = files[: options.pictures]
        scores = {"predictions.csv": [stored[path] for path in files]}
        again = adbench.load_detector(run)
        scores["reloaded"] = [again.predict(path).score.item() for path in files]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.mkdir()
            for number, path in enumerate(files):
                (source / f"{number:04d}{path.suffix}").symlink_to(path)
            exports = {"onnx": "detector.onnx", "openvino": "detector.xml"}
            for kind, file in exports.items():
                main(["export", f"run={run}", f"format={kind}", "threads=1"])
                place = run / "export" / f"{kind}-fp32" / file
                scores[kind] = predicted(f"model={place}", files, Path(folder) / kind)
        service = Served(f"run={run.absolute()}")
        answers = [service.call("POST", "/v1/score", path.read_bytes())[2] for path in files]
        scores["service"] = [answer["score"] for answer in answers]
        service.end()
        first = np.array(scores["predictions.csv"])
        found[run.name] = {
            "pictures": len(files),
            **{k: float(np.abs(np.array(v) - first).max()) for k, v in scores.items()},
        }
    return found


def predicted(place, files, out):
    """Return the scores of files named one by one, by the verb."""
    from adbench.cli.predict import _inspector
    from adbench.deploy.predict import scored
    from adbench.deploy.settings import PredictKeys

    keys = plain_keys(PredictKeys, [place, "source=x", f"out={out}", "threads=1"], "predict")
    inspector = _inspector(keys)[1]
    return [scored(inspector, [inspector.reading.picture(path, 10**9)])[0].score for path in files]


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
    """2000 requests of 16 clients, 5 % of them malformed: truth, memory, latency, a kill -9."""
    run = Path(options.run).absolute()
    files, stored = run_pictures(run)
    files = files[:40]
    bodies = {path: path.read_bytes() for path in files}
    served = Served(f"run={run}", "workers=1", "queue=64", "body_seconds=1", "max_pixels=4000000")
    for path in files[:5]:
        served.call("POST", "/v1/score", bodies[path])
    alone = [timed(served, bodies[files[0]])[1] for _ in range(60)]
    rng = random.Random(0)
    jobs = [None if rng.random() < 0.05 else rng.choice(files) for _ in range(options.requests)]
    rates = {}
    for clients in (2, 16):
        jobs_here = jobs if clients == 16 else [job for job in jobs[:300] if job is not None]
        memory, stop = [], threading.Event()
        watcher = threading.Thread(target=watch_memory, args=(served, memory, stop))
        watcher.start()
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            answers = list(
                pool.map(lambda n, j=jobs_here: ask(served, j[n], bodies, n), range(len(jobs_here)))
            )
        seconds = time.perf_counter() - start
        stop.set()
        watcher.join()
        good = [(job, a) for job, a in zip(jobs_here, answers, strict=True) if job is not None]
        bad = [a for job, a in zip(jobs_here, answers, strict=True) if job is None]
        right = sum(a[0] == 200 and abs(a[2]["score"] - stored[job]) < 1e-4 for job, a in good)
        times = [a[1] for _, a in good]
        rates[f"{clients} clients"] = {
            "requests": len(jobs_here),
            "good": len(good),
            "good_and_right": right,
            "bad": len(bad),
            "bad_with_4xx": sum(400 <= a[0] < 500 for a in bad),
            "requests_per_second": len(jobs_here) / seconds,
            "p50_ms": 1000 * float(np.quantile(times, 0.5)),
            "p95_ms": 1000 * float(np.quantile(times, 0.95)),
            "memory_mib": quarters(memory),
        }
    before = children(served.process.pid)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(timed, served, bodies[files[0]]) for _ in range(40)]
        time.sleep(0.3)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        statuses = [each.result()[0] for each in asked]
    end = time.monotonic() + 60
    while served.call("GET", "/health/ready")[0] != 200 and time.monotonic() < end:
        time.sleep(0.1)
    after = [timed(served, bodies[files[0]])[0] for _ in range(20)]
    served.end()
    return {
        "alone_p50_ms": 1000 * float(np.quantile(alone, 0.5)),
        "alone_p95_ms": 1000 * float(np.quantile(alone, 0.95)),
        **rates,
        "worker_killed": {s: statuses.count(s) for s in sorted(set(statuses))},
        "after": {s: after.count(s) for s in sorted(set(after))},
    }


def timed(served, body):
    start = time.perf_counter()
    status, _, answer = served.call("POST", "/v1/score", body)
    return status, time.perf_counter() - start, answer


def ask(served, job, bodies, number):
    if job is not None:
        return timed(served, bodies[job])
    picture = next(iter(bodies.values()))
    kind = number % 5
    start = time.perf_counter()
    if kind == 4:
        status = slow(served)
    elif kind == 3:
        status = served.call("POST", "/v1/score", picture, X_Long="a" * 40_000)[0]
    else:
        body = (picture[: len(picture) // 2], bomb(), b"GIF89a no picture")[kind]
        status = served.call("POST", "/v1/score", body)[0]
    return status, time.perf_counter() - start, None


def bomb():
    from PIL import Image

    made = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(made, "PNG")
    return made.getvalue()


def slow(served):
    """A client that sends its body too slowly."""
    host, _, port = served.place.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
            b"Content-Length: 9000\r\n\r\nabc"
        )
        return int(line.recv(200).split()[1])


def children(pid):
    told = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in told.split()]


def resident(pid):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def watch_memory(served, found, stop):
    while not stop.is_set():
        found.append(sum(map(resident, [served.process.pid, *children(served.process.pid)])))
        time.sleep(0.25)


def quarters(values):
    """Return the medians of four quarters of a series, MiB."""
    parts = np.array_split(np.array(values), 4) if len(values) >= 4 else [np.array(values)]
    return [round(float(np.median(part)), 1) for part in parts if len(part)]


def predict(options):
    """Many pictures through the verb: memory after the first 500, rate beside benchmark's."""
    run = Path(options.run).absolute()
    files, _ = run_pictures(run)
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
    words = [f"run={run}", "engines=[eager]", "batches=[8]", "threads=1", "rounds=3"]
    from adbench.deploy.benchmark import benchmark

    told = benchmark(run, plain_keys(BenchmarkKeys, [*words, "seconds=5"], "benchmark"), say)
    end = told["end_to_end"]["eager"]["images_per_second"]
    rate = record["last"]["images_per_second"]
    memory = [mib for done, mib in series if done >= 500 and mib > 0]
    return {
        "exit": process.returncode,
        "counts": record["counts"],
        "images_per_second": rate,
        "benchmark_end_to_end": end,
        "share": rate / end,
        "memory_mib_after_500": quarters(memory),
        "memory_growth_mib": round(memory[-1] - memory[0], 1),
    }


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
    part.add_argument("--embed", type=int, default=512)
    part.add_argument("--seconds", type=float, default=20)
    part.add_argument("--threads", type=int, default=2)
    part.add_argument("--peers", action="store_true")
    part = parts.add_parser("equal")
    part.add_argument("runs", nargs="+")
    part.add_argument("--pictures", type=int, default=16)
    for name, option, default in (
        ("service", "requests", 2000),
        ("predict", "pictures", 5000),
        ("watch", "pictures", 500),
    ):
        part = parts.add_parser(name)
        part.add_argument("run")
        part.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    print(json.dumps(globals()[options.part](options), indent=2))


if __name__ == "__main__":
    main()
