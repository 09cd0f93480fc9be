"""Whether an image file is as it was written: complete, and without flipped bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from adbench.data.facts import facts_of
from adbench.data.files import check_regular, shown_path
from adbench.data.images import PNG_SIGNATURE, decode
from adbench.errors import UserError

_JPEG_START = b"\xff\xd8"
_LEFT_ALONE = {0x00, *range(0xD0, 0xD8)}  # stuffed bytes and restart marks inside coded data
_AFTER_SCAN = {0xC4, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # what may follow


def broken_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Return what is wrong with each file that is not whole; an unchanged whole file is asked once.

    PNG: every chunk is there up to IEND and fits its checksum, so any cut and any flipped byte is
    found. JPEG: its segments are walked to the end mark and its coded data are read (at an eighth
    of the size): a cut is always found, a flipped byte where it breaks the structure; one inside
    the coded data that still decodes is not told by the format. TIFF, BMP and WebP are decoded:
    a cut is found, and what their compression notices; without compression a flipped byte is just
    another grey value. What lies behind the end of a file is not looked at.
    """
    regular, found = [], {}
    for path in dict.fromkeys(paths):
        try:
            check_regular(path)
            regular.append(path)
        except UserError as error:
            found[path] = str(error)
    verdicts = facts_of(regular, "broken", _looked_at, lasting=lambda verdict: not verdict)
    return found | {path: text for path, text in zip(regular, verdicts, strict=True) if text}


def _looked_at(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(PNG_SIGNATURE):
            _check_png(data)
        elif data.startswith(_JPEG_START):
            _check_jpeg(data)
            decode(path, coarse=True)
        else:
            decode(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot read image {shown_path(path)}: {error.strerror}"
    except _DamageError as damage:
        return f"cannot read image {shown_path(path)}: {damage}; replace or remove the file"
    return ""


class _DamageError(Exception):
    """What is wrong with a file's bytes."""


def _check_png(data: bytes) -> None:
    at, view = len(PNG_SIGNATURE), memoryview(data)
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise _DamageError(
                f"the checksum of its part {name!r} at byte {at} does not fit: damaged"
            )
        if name == b"IEND":
            return
        at = end
    raise _DamageError("it ends before its last part: cut off")


def _check_jpeg(data: bytes) -> None:
    at = len(_JPEG_START)
    while True:
        if data[at : at + 1] != b"\xff" and at < len(data):
            raise _DamageError(f"no segment begins at byte {at}: damaged")
        while data[at : at + 1] == b"\xff":  # any number of fill bytes
            at += 1
        if at >= len(data):
            raise _DamageError("it has no end mark: cut off")
        mark, at = data[at], at + 1
        if mark == 0xD9:
            return
        if mark in (0x01, *range(0xD0, 0xD8)):
            continue
        if at + 2 > len(data):
            raise _DamageError("it has no end mark: cut off")
        at += int.from_bytes(data[at : at + 2], "big")
        if mark == 0xDA:
            at = _after_scan(data, at)


def _after_scan(data: bytes, at: int) -> int:
    """Return where the segment after coded data begins."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise _DamageError("it has no end mark: cut off")
        mark = data[at + 1]
        if mark == 0xFF:
            at += 1
        elif mark in _LEFT_ALONE:
            at += 2
        elif mark in _AFTER_SCAN:
            return at
        else:
            raise _DamageError(f"its coded data hold an impossible mark at byte {at}: damaged")
