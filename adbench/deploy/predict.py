"""Judges a stream of pictures: scores.csv, JSON lines, overlays, maps; drift is told."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adbench.data.files import shown_path
from adbench.deploy.decision import Drift
from adbench.deploy.inspector import Inspection, Inspector, failed
from adbench.deploy.ledger import Ledger
from adbench.deploy.overlay import overlay, write_map, write_overlay
from adbench.deploy.reading import Picture
from adbench.deploy.settings import PredictKeys
from adbench.deploy.sources import Item, WatchedFolder, opened_source
from adbench.deploy.stream import Ahead, Decoded, decoded
from adbench.errors import UserError
from adbench.runs.alone import written_alone
from adbench.runs.files import confined, read_record, remove, write_json

TABLE = "scores.csv"
RECORD = "predict.json"
_SAY_EVERY = 10.0  # seconds between two lines of progress


@dataclass(slots=True)
class Outcome:
    """What a prediction ended with.

    Attributes:
        counts: ok, ng, error over the whole table.
        judged: pictures judged by this call.
        seconds: it took for them.
        known: pictures of the source that had their line before.
    """

    counts: dict[str, int]
    judged: int = 0
    known: int = 0
    seconds: float = 0.0
    drift: dict[str, Any] = field(default_factory=dict)


def default_out(place: Path, source: str) -> Path:
    """Return where results lie unless ``out=`` says so: below the run, named like the source."""
    plain = re.sub(r"[^\w.+-]+", "_", Path(source).name).strip("._") or "source"
    digest = hashlib.sha256(str(Path(source).absolute()).encode("utf-8", "replace"))
    return place / "predictions" / f"{plain[:80]}-{digest.hexdigest()[:6]}"


def predict(
    inspector: Inspector,
    keys: PredictKeys,
    out: Path,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> Outcome:
    """Judge every picture of ``keys.source`` that has no line in ``out/scores.csv`` yet.

    Args:
        say: takes lines of progress.
        tell: takes one line of JSON a picture, where ``keys.stdout``. A line is told before it is
            written: after a kill one may be told twice, with one id, and none is lost.

    Raises:
        UserError: no such source, or ``out`` holds results of another detector or threshold.
    """
    assert keys.source is not None
    threshold = inspector.rule.threshold  # told before anything is written where there is none
    with written_alone(out, "out"):
        if keys.force:
            for name in (TABLE, RECORD, "overlays", "maps"):
                remove(out / name)
        _check_same(out, inspector, threshold, keys)
        ledger = Ledger(out / TABLE)
        try:
            found = _Run(inspector, keys, out, ledger, say, tell).all()
        finally:
            ledger.close()
        write_json(out / RECORD, {**_same(inspector, threshold, keys), **_summary(found)})
    return found


def _same(inspector: Inspector, threshold: float, keys: PredictKeys) -> dict[str, Any]:
    """Return what all lines of one table have in common."""
    return {
        "schema": 1,
        "model": inspector.model,
        "sha256": inspector.sha256,
        "engine": inspector.engine.name,
        "threshold": threshold,
        "overlays": keys.overlays,
        "maps": keys.maps,
    }


def _check_same(out: Path, inspector: Inspector, threshold: float, keys: PredictKeys) -> None:
    own = _same(inspector, threshold, keys)
    if not (out / RECORD).exists():
        write_json(out / RECORD, own)
        return
    before = read_record(out / RECORD)
    told = [f"{k}={before.get(k)}, now {v}" for k, v in own.items() if before.get(k) != v]
    if told:
        raise UserError(
            f"{shown_path(out)} holds results of {'; '.join(told)[:300]}: set out= to another "
            "folder, or force=true to judge anew"
        )


def _summary(found: Outcome) -> dict[str, Any]:
    rate = found.judged / found.seconds if found.seconds > 0 else None
    return {
        "counts": found.counts,
        "drift": found.drift,
        "last": {
            "judged": found.judged,
            "seconds": round(found.seconds, 3),
            "images_per_second": rate and round(rate, 2),
        },
    }


class _Run:
    """One call of ``predict``."""

    def __init__(
        self,
        inspector: Inspector,
        keys: PredictKeys,
        out: Path,
        ledger: Ledger,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self.inspector, self.keys, self.out, self.ledger = inspector, keys, out, ledger
        self.say, self.tell = say, tell
        self.drift = Drift(inspector.rule)
        self.found = Outcome(ledger.counts)
        self._told = time.monotonic()

    def all(self) -> Outcome:
        """Judge what the source gives."""
        view = self.keys.overlays != "none"
        ahead = Ahead(
            self._new_items(),
            lambda item: decoded(item, self.inspector.reading, self.keys.max_pixels, view=view),
            depth=2 * self.keys.batch_size,
        )
        start = None
        for batch in ahead.batches(self.keys.batch_size):
            start = start or time.perf_counter() - sum(d.milliseconds for d in batch) / 1000
            self._judge(batch)
            self.found.seconds = time.perf_counter() - start
        self.found.drift = self.drift.record()
        return self.found

    def _new_items(self) -> Iterator[Item]:
        """Yield the items that have no line yet, at most ``limit`` of them."""
        given = 0
        for item in self._items():
            if self.ledger.knows(item.identity):
                self.found.known += 1
                continue
            yield item
            given += 1
            if given == self.keys.limit:
                return

    def _items(self) -> Iterator[Item]:
        keys = self.keys
        assert keys.source is not None
        if not keys.watch:
            yield from opened_source(
                keys.source, every=keys.every, max_pixels=keys.max_pixels, skip=self.out
            )
            return
        yield from WatchedFolder(
            Path(keys.source).expanduser(),
            settle=keys.settle,
            poll=keys.poll,
            idle=keys.idle,
            skip=self.out,
            known=self.ledger.knows,
        )

    def _judge(self, batch: Sequence[Decoded]) -> None:
        """Score a batch; every item of it gets its line, whatever happens to the others."""
        good = [each.picture for each in batch if each.picture is not None]
        inspections = iter(scored(self.inspector, good))
        for each in batch:
            found = failed(each.error or "") if each.picture is None else next(inspections)
            found.milliseconds["decode"] = each.milliseconds
            self._write(each, found)
        now = time.monotonic()
        if now - self._told > _SAY_EVERY:
            self._told = now
            counts = ", ".join(f"{count} {name}" for name, count in self.found.counts.items())
            seconds = self.found.seconds
            rate = f"; {self.found.judged / seconds:.1f} images/s" if seconds > 0.1 else ""
            self.say(f"{counts}{rate}")

    def _write(self, each: Decoded, found: Inspection) -> None:
        record = found.record(each.item.identity, each.item.name, self.inspector.model)
        if found.error is not None:
            self.say(f"error: {found.error}")
        else:
            record.update(self._drawn(each, found))
        if self.keys.stdout:
            self.tell(json.dumps(record, allow_nan=False))
        self.ledger.add(record)
        self.found.judged += 1
        if found.verdict == "ok" and found.score is not None:
            warning = self.drift.add(found.score)
            if warning:
                self.say(f"warning: {warning}")

    def _drawn(self, each: Decoded, found: Inspection) -> dict[str, str]:
        """Write what was asked for of one picture; return the files, relative to ``out``."""
        assert each.picture is not None
        assert found.anomaly_map is not None
        stem = re.sub(r"[^\w.+#-]+", "_", Path(each.item.name).stem)[-80:]
        name, made = f"{stem}-{each.item.identity}", {}
        if self.keys.overlays in ("all", found.verdict):
            made["overlay"] = f"overlays/{name}.png"
            path = confined(self.out, made["overlay"])
            write_overlay(path, overlay(self.inspector, each.picture, found))
        if self.keys.maps in ("all", found.verdict):
            made["map"] = f"maps/{name}.tiff"
            framed = self.inspector.reading.in_frame(found.anomaly_map, each.picture.size)
            write_map(confined(self.out, made["map"]), framed)
        return made


def scored(inspector: Inspector, pictures: Sequence[Picture]) -> list[Inspection]:
    """Return an inspection of each picture; one that breaks its batch is told alone."""
    if not pictures:
        return []
    try:
        return inspector.judged(pictures)
    except Exception as error:  # whatever an engine raises: the others must have their verdict
        if len(pictures) == 1:
            told = " ".join(f"it cannot be scored: {error}".split())[:300]
            return [failed(told)]
        return [found for picture in pictures for found in scored(inspector, [picture])]
