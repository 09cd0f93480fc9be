"""Requests to a running service, good and malformed, and the memory of a tree of processes."""

from __future__ import annotations

import concurrent.futures
import io
import random
import socket
import subprocess
import time
from pathlib import Path

import numpy as np


class Load:
    """Requests to a service, and what became of them."""

    def __init__(self, served, bodies, stored):
        self.served, self.bodies, self.stored = served, bodies, stored
        self.rng = random.Random(0)

    def jobs(self, count, bad):
        """Return files, None for a malformed request."""
        files = list(self.bodies)
        return [None if self.rng.random() < bad else self.rng.choice(files) for _ in range(count)]

    def burst(self, jobs, clients):
        """Each client sends its next request when it has its answer."""
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(lambda n: self.ask(jobs[n], n), range(len(jobs))))
        return self.told(jobs, answers, time.perf_counter() - start)

    def arriving(self, jobs, clients, rate):
        """Requests arrive by a Poisson process, whether or not somebody is free to send them."""
        due, at = [], 0.0
        for _ in jobs:
            at += self.rng.expovariate(rate)
            due.append(at)
        start = time.perf_counter()

        def one(number):
            time.sleep(max(0.0, start + due[number] - time.perf_counter()))
            status, _, answer = self.ask(jobs[number], number)
            return status, time.perf_counter() - start - due[number], answer

        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(one, range(len(jobs))))
        found = self.told(jobs, answers, time.perf_counter() - start)
        found["all_ms"] = [1000 * a[1] for a in answers if a[0] == 200]
        return found

    def ask(self, job, number):
        return ask(self.served, job, self.bodies, number)

    def told(self, jobs, answers, seconds):
        pairs = list(zip(jobs, answers, strict=True))
        good = [(job, a) for job, a in pairs if job is not None]
        bad = [a for job, a in pairs if job is None]
        judged = [(job, a) for job, a in good if a[0] == 200]
        times = [a[1] for _, a in judged]
        statuses = [a[0] for _, a in good]
        return {
            "requests": len(jobs),
            "good": {status: statuses.count(status) for status in sorted(set(statuses))},
            "wrong_scores": sum(abs(a[2]["score"] - self.stored[job]) > 1e-4 for job, a in judged),
            "bad": len(bad),
            "bad_with_4xx": sum(400 <= a[0] < 500 for a in bad),
            "requests_per_second": len(jobs) / seconds,
            **{
                f"p{q}_ms": 1000 * float(np.quantile(times, q / 100)) for q in (50, 95, 99) if times
            },
        }


def timed(served, body):
    start = time.perf_counter()
    status, _, answer = served.call("POST", "/v1/score", body)
    return status, time.perf_counter() - start, answer


def ask(served, job, bodies, number):
    if job is not None:
        return timed(served, bodies[job])
    picture = next(iter(bodies.values()))
    head = b"POST /v1/score HTTP/1.1\r\nHost: x\r\n"
    kind = number % 6
    start = time.perf_counter()
    if kind == 5:
        status = slow(served, head)
    elif kind == 4:
        status = slow(served, head + b"Content-Type: image/png\r\nContent-Length: 9000\r\n\r\nabc")
    elif kind == 3:
        status = served.call("POST", "/v1/score", picture, X_Long="a" * 40_000)[0]
    else:
        body = (picture[: len(picture) // 2], BOMB, b"GIF89a no picture")[kind]
        status = served.call("POST", "/v1/score", body)[0]
    return status, time.perf_counter() - start, None


def bomb():
    from PIL import Image

    made = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(made, "PNG")
    return made.getvalue()


BOMB = bomb()


def slow(served, start):
    """A client that does not send the rest."""
    host, _, port = served.place.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(start)
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
