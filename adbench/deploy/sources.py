"""What is to be judged: a picture, a folder, a glob, a video, a camera, a watched folder."""

from __future__ import annotations

import glob
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.data.files import check_regular, shown_path
from adbench.data.images import is_image
from adbench.errors import UserError

VIDEOS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"})
_MAGIC_CHARS = "*?["


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge.

    Attributes:
        name: what it is called in records: a path, or ``video.mp4#12``.
        identity: 16 hex digits, equal for one state of one file alone.
        path: of a picture file; None for a frame.
        frame: [H, W, 3] uint8 RGB of a video or camera.
        error: why it cannot be judged at all.
    """

    name: str
    identity: str
    path: Path | None = None
    frame: NDArray[np.uint8] | None = None
    error: str | None = None


def identity_of(name: str | bytes, *state: int) -> str:
    """Return 16 hex digits of a name and the numbers that say which state of it is meant."""
    encoded = os.fsencode(name) + repr(state).encode()
    return hashlib.sha256(encoded).hexdigest()[:16]


def file_item(path: Path, root: Path | None = None) -> Item:
    """Return the item of a picture file: same path, size and time of change, same identity.

    Args:
        root: a folder that links must not lead out of; None for files named one by one.
    """
    name = shown_path(path)
    try:
        found = os.stat(path)
    except OSError as error:
        return Item(name, identity_of(os.fspath(path)), path, error=f"{error.strerror}: {name}")
    identity = identity_of(os.fspath(path), found.st_size, found.st_mtime_ns)
    if root is not None and path.is_symlink() and not path.resolve().is_relative_to(root):
        return Item(name, identity, path, error=f"{name} is a link that leads out of the folder")
    return Item(name, identity, path)


def opened_source(source: str, *, every: int, max_pixels: int, skip: Path) -> Iterator[Item]:
    """Return the items of a source that ends; what is wrong with it as a whole is told at once.

    Args:
        source: a picture, a folder (with all below it), a glob, a video, or a camera's number.
        every: of a video's or camera's frames one in so many.
        skip: a folder below the source that is no part of it: where results are written.

    Raises:
        UserError: there is no such file, or no picture.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _some(pictures_below(path, skip), f"source={shown_path(path)} holds no picture")
    if os.path.lexists(path):
        if path.suffix.lower() in VIDEOS:
            check_regular(path, "video")
            return _video(path, every, max_pixels)
        check_regular(path)
        return iter([file_item(path)])
    if source.isdecimal():
        return _camera(int(source), every)
    if any(character in source for character in _MAGIC_CHARS):
        return _some(_globbed(str(path), skip), f"no picture fits source={shown_path(source)}")
    raise UserError(f"source={shown_path(source)} does not exist")


def _some(items: Iterator[Item], told: str) -> Iterator[Item]:
    """Return the iterator again where it has a first item; raise UserError with ``told`` else."""
    try:
        first = next(items)
    except StopIteration:
        raise UserError(told) from None

    def again() -> Iterator[Item]:
        yield first
        yield from items

    return again()


def pictures_below(folder: Path, skip: Path) -> Iterator[Item]:
    """Yield the pictures of a folder and all below it, by name, a folder at a time.

    Linked folders are left alone (a loop has no end); linked files that lead out are errors.
    """
    root = folder.resolve()
    left_out = skip.resolve()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        names, folders = [], []
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif is_image(Path(entry.name)):
                    names.append(entry.name)
        for name in sorted(names, key=os.fsencode):
            yield file_item(here / name, root)
        waiting += sorted(
            (path for path in folders if path.resolve() != left_out), key=os.fsencode, reverse=True
        )


def _globbed(pattern: str, skip: Path) -> Iterator[Item]:
    left_out = skip.resolve()
    for name in sorted(glob.iglob(pattern, recursive=True), key=os.fsencode):
        path = Path(name)
        if is_image(path) and not path.is_dir() and not path.resolve().is_relative_to(left_out):
            yield file_item(path)


class WatchedFolder:
    """Yields pictures that appear below a folder, once each, when nobody writes them any more.

    A file counts as written when its size and time of change were the same at two looks at least
    ``settle`` seconds apart. Looking again and again works on network shares too, where nobody
    is told of changes.

    Args:
        folder: exists.
        settle, poll: seconds.
        idle: end after so many seconds without a new picture; None for never.
        skip: a folder that is no part of it.
        known: whether a picture's identity was judged before.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settle: float,
        poll: float,
        idle: float | None,
        skip: Path,
        known: Callable[[str], bool],
    ) -> None:
        self.folder, self.settle, self.poll, self.idle = folder, settle, poll, idle
        self.skip, self.known = skip, known
        self._since: dict[str, tuple[str, float]] = {}  # path -> identity, first seen at
        self._given: dict[str, str] = {}  # path -> identity that was yielded

    def __iter__(self) -> Iterator[Item]:
        quiet = time.monotonic()
        while True:
            start = time.monotonic()
            for item in self._settled():
                quiet = time.monotonic()
                yield item
            now = time.monotonic()
            if self.idle is not None and now - quiet > self.idle and not self._since:
                return
            time.sleep(max(self.poll, now - start))  # a huge folder is not looked at all the time

    def _settled(self) -> list[Item]:
        """Look once; return what is new and at rest, and forget what is gone."""
        found, since, given = [], {}, {}
        try:
            items = list(pictures_below(self.folder, self.skip))
        except OSError:  # a share that is away comes back
            return []
        now = time.monotonic()
        for item in items:
            if self._given.get(item.name) == item.identity:
                given[item.name] = item.identity
                continue
            identity, first = self._since.get(item.name, ("", now))
            first = first if identity == item.identity else now
            if item.name not in self._given and identity == "" and self.known(item.identity):
                given[item.name] = item.identity
            elif now - first >= self.settle and identity == item.identity:
                given[item.name] = item.identity
                found.append(item)
            else:
                since[item.name] = (item.identity, first)
        self._since, self._given = since, given
        return found


def _video(path: Path, every: int, max_pixels: int) -> Iterator[Item]:
    """Yield one in ``every`` frames; only containers that hold their frames themselves are opened.

    Raises:
        UserError: a playlist or script under a video's name, or larger frames than allowed.
    """
    with open(path, "rb") as file:
        start = file.read(12)
    holds = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    if not (holds or start.startswith((b"\x1aE\xdf\xa3", b"RIFF"))):
        raise UserError(f"cannot read video {shown_path(path)}: no MP4, MOV, AVI, MKV or WebM")
    found = os.stat(path)
    capture = cv2.VideoCapture(os.fspath(path))
    if not capture.isOpened():
        raise UserError(
            f"cannot read video {shown_path(path)}: it is damaged, or of a codec that "
            "this OpenCV does not know"
        )
    sides = (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    if sides[0] * sides[1] > max_pixels:
        capture.release()
        raise UserError(
            f"video {shown_path(path)} has frames of {sides[0]:.0f}x{sides[1]:.0f} pixels, more "
            f"than max_pixels={max_pixels}"
        )
    state = (found.st_size, found.st_mtime_ns)
    name = shown_path(path)
    return _frames(capture, every, name, lambda at: identity_of(os.fspath(path), *state, at))


def _camera(number: int, every: int) -> Iterator[Item]:
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        there = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise UserError(
            f"source={number}: no such file, and camera {number} cannot be opened "
            f"(cameras of this machine: {there})"
        )
    begun = time.time_ns()
    return _frames(
        capture, every, f"camera:{number}", lambda at: identity_of(f"camera:{number}", begun, at)
    )


def _frames(
    capture: cv2.VideoCapture, every: int, name: str, identity: Callable[[int], str]
) -> Iterator[Item]:
    at = 0
    try:
        while capture.grab():
            if at % every == 0:
                done, frame = capture.retrieve()
                told = f"{name}#{at}"
                if done and frame is not None:
                    rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                    yield Item(told, identity(at), frame=np.asarray(rgb, dtype=np.uint8))
                else:
                    yield Item(told, identity(at), error=f"frame {at} cannot be decoded")
            at += 1
    finally:
        capture.release()
