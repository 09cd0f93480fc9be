"""A worker of the service: its own process, so that a fault of a decoder ends nothing else.

Reads messages on stdin, writes them on what was stdout. Pictures are decoded beside scoring;
those that are waiting when the engine is free are scored together.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from adbench.deploy.inspector import Inspection, Inspector, failed
from adbench.deploy.overlay import overlay, png_bytes
from adbench.deploy.predict import scored
from adbench.deploy.reading import check_header
from adbench.deploy.sources import Item, identity_of
from adbench.deploy.stream import Decoded, decoded
from adbench.deploy.wire import packed, received
from adbench.errors import UserError


def inspector_at(place: Path, device: str, threads: int) -> Inspector:
    """Return the inspector of a run folder or of an exported file.

    Raises:
        UserError: it cannot be opened, or has no threshold.
    """
    if place.suffix in (".onnx", ".xml"):
        from adbench.deploy.runtime import inspector_of_export

        found = inspector_of_export(place, threads, spin=False)
    else:
        from adbench.deploy.torch_engine import inspector_of_run

        found = inspector_of_run(place, device, threads)
    found.rule.told()
    return found


def warm_up(inspector: Inspector, batch: int) -> None:
    """Score once what will come later: the largest batch takes its memory before it is ready.

    The first request then costs what any other does, and a machine with too little memory says so
    at the start and not under load.
    """
    height, width = inspector.reading.size
    for count in (batch, 1):
        inspector.engine(np.zeros((count, height, width, 3), np.uint8))


class _Work:
    """One request: its number, its picture, whether an overlay is wanted."""

    def __init__(self, number: int, wants_overlay: bool, found: Decoded, status: int) -> None:
        self.number, self.wants_overlay = number, wants_overlay
        self.decoded, self.status = found, status


class Worker:
    """Scores what comes in until its stdin ends."""

    def __init__(self, inspector: Inspector, config: dict[str, Any], out: BinaryIO) -> None:
        self.inspector, self.config, self.out = inspector, config, out
        self._lock = threading.Lock()
        self._ready: queue.Queue[_Work | None] = queue.Queue()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="decode")
        self._folder = tempfile.mkdtemp(prefix="adbench-", dir=_memory_folder())

    def send(self, document: dict[str, Any], body: bytes = b"") -> None:
        """Write one message."""
        with self._lock:
            self.out.write(packed(document, body))
            self.out.flush()

    def run(self, stream: BinaryIO) -> None:
        """Work until the service closes its side."""
        scorer = threading.Thread(target=self._score, daemon=True)
        scorer.start()
        while (message := received(stream)) is not None:
            self._pool.submit(self._decode, *message)
        self._pool.shutdown()
        self._ready.put(None)
        scorer.join()
        os.rmdir(self._folder)

    def _decode(self, document: dict[str, Any], data: bytes) -> None:
        number, wants = int(document["id"]), bool(document.get("overlay"))
        path = Path(self._folder) / str(number)
        limit = int(self.config["max_pixels"])
        item = Item(str(document.get("name", "")), identity_of(data), path)
        status = 200
        try:
            path.write_bytes(data)  # so that bytes and files are read by one rule
            try:
                check_header(path, limit)
            except UserError as error:
                status = 413 if "max_pixels" in str(error) else 422
            found = decoded(item, self.inspector.reading, limit, view=wants)
        except Exception as error:  # a worker answers every request
            found = Decoded(item, None, f"it cannot be read: {error}", 0.0)
        finally:
            path.unlink(missing_ok=True)
        if found.error is not None:
            told = found.error.replace(str(path), "the picture")
            found, status = Decoded(item, None, told, found.milliseconds), max(status, 422)
            status = 413 if "max_pixels" in told else status
        self._ready.put(_Work(number, wants, found, status))

    def _score(self) -> None:
        while True:
            batch = [self._ready.get()]
            while len(batch) < int(self.config["batch_size"]) and batch[-1] is not None:
                try:
                    batch.append(self._ready.get_nowait())
                except queue.Empty:
                    break
            work = [each for each in batch if each is not None]
            good = [w.decoded.picture for w in work if w.decoded.picture is not None]
            inspections = iter(scored(self.inspector, good))
            for each in work:
                bad = each.decoded.picture is None
                found = failed(each.decoded.error or "") if bad else next(inspections)
                self._answer(each, found, len(good))
            if batch[-1] is None:
                return

    def _answer(self, work: _Work, found: Inspection, batch: int) -> None:
        found.milliseconds["decode"] = work.decoded.milliseconds
        item, picture, drawn = work.decoded.item, work.decoded.picture, b""
        record = found.record(item.identity, item.name, self.inspector.model)
        status = work.status if found.error is None or work.status != 200 else 500
        if work.wants_overlay and found.error is None and picture is not None:
            drawn = png_bytes(overlay(self.inspector, picture, found))
        reply = {"id": work.number, "status": status, "batch": batch, "record": record}
        self.send(reply, drawn)


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    """Serve one service; the first message is the configuration."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not break a message
    first = received(sys.stdin.buffer)
    if first is None:
        return 1
    config = first[0]
    try:
        inspector = inspector_at(Path(config["place"]), config["device"], int(config["threads"]))
    except UserError as error:
        out.write(packed({"refused": str(error)}))
        out.flush()
        return 2
    warm_up(inspector, int(config["batch_size"]))
    worker = Worker(inspector, config, out)
    rule = inspector.rule
    worker.send(
        {
            "ready": True,
            "card": {
                "model": inspector.model,
                "sha256": inspector.sha256,
                "engine": inspector.engine.name,
                "threshold": rule.threshold,
                "threshold_source": rule.stored.threshold.source,
                "expected_false_alarm_rate": rule.stored.threshold.expected_false_alarm_rate,
                "pictures": inspector.reading.record(),
            },
        }
    )
    worker.run(sys.stdin.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
