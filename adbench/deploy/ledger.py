"""scores.csv: one line a picture, written when it is judged, and the memory of what was judged."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adbench.errors import UserError

COLUMNS = (
    *("id", "time", "source", "verdict", "score", "threshold", "confidence", "regions"),
    *("map", "overlay", "decode_ms", "score_ms", "error"),
)
_SYNC = 1.0  # seconds between two waits for the disk


class Ledger:
    """Appends whole lines; a line that a killed process left half written is cut off on opening.

    A picture is judged when, and only when, its line is here: what was being worked on when the
    process was killed is judged again, what has a line never is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from error
        self.judged: set[bytes] = set()
        self.counts = {"ok": 0, "ng": 0, "error": 0}
        self._synced = time.monotonic()
        self._recall()

    def _recall(self) -> None:
        """Read what is there; cut a torn end; write the header of a new file."""
        whole = _whole_bytes(self.path)
        os.ftruncate(self._file, whole)
        if not whole:
            self._append(",".join(COLUMNS) + "\n")
            return
        with open(self.path, newline="", encoding="utf-8", errors="replace") as lines:
            rows = csv.reader(lines)
            if next(rows, None) != list(COLUMNS):
                raise UserError(f"{self.path} is no table of adbench predict: choose another out=")
            for row in rows:
                if len(row) == len(COLUMNS) and row[3] in self.counts:
                    self.judged.add(_short(row[0]))
                    self.counts[row[3]] += 1

    def knows(self, identity: str) -> bool:
        """Whether a picture of this identity has its line."""
        return _short(identity) in self.judged

    def add(self, record: Mapping[str, Any]) -> None:
        """Append the line of one picture."""
        times = record["milliseconds"]
        values = {
            **record,
            "regions": json.dumps(record["regions"], allow_nan=False),
            "decode_ms": times.get("decode"),
            "score_ms": times.get("score"),
        }
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([_cell(values[name]) for name in COLUMNS])
        self._append(text.getvalue())
        self.judged.add(_short(str(record["id"])))
        self.counts[str(record["verdict"])] += 1

    def _append(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        if os.write(self._file, data) != len(data):
            raise OSError(28, "the disk is full", str(self.path))
        if time.monotonic() - self._synced > _SYNC:
            os.fsync(self._file)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Bring everything to the disk."""
        os.fsync(self._file)
        os.close(self._file)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else value


def _short(identity: str) -> bytes:
    return identity.encode("utf-8", "replace")[:16]


def _whole_bytes(path: Path) -> int:
    """Return how many bytes of a file belong to lines that were ended."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            place = file.read(end - start).rfind(b"\n")
            if place >= 0:
                return start + place + 1
            end = start
    return 0
