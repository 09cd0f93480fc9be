"""Decoded and fitted images, kept as uint8 so that a run decodes each file once."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from adbench.config.schema import Fit
from adbench.data.facts import content_hash, facts_of
from adbench.data.files import is_running
from adbench.data.fit import fitted
from adbench.data.images import read_image
from adbench.data.places import cache_limit, default_cache_folder
from adbench.data.sample import Sample
from adbench.errors import UserError

T = TypeVar("T")

FORMAT = 2  # raise when decoding or resizing changes: old entries are then not reused
PICTURES = "pictures"  # below the cache folder
_LEFT_OVER = 600.0  # seconds after which nobody still writes a temporary file


def resized_image(
    path: Path, size: tuple[int, int], fit: Fit = "squash", bits: int | None = None
) -> NDArray[np.uint8]:
    """Return the image as uint8 [H, W, 3] RGB at ``size`` (height, width), fitted by ``fit``.

    Args:
        bits: how many of a deep file's bits are used, see ``read_image``.

    Raises:
        UserError: the file cannot be decoded.
    """
    return fitted(read_image(path, bits), size, fit)


class ImageCache:
    """All images of a split at one size, [N, H, W, 3] uint8.

    In memory when ``max_memory`` bytes hold them, else each in a small file of its own below the
    cache folder, named after everything its pixels depend on: the picture's content, size, fit
    and bits. So equal pictures are kept once, whatever the split, the seed or the folder; two
    processes may fill the cache at once, and a file that is missing is made again.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int],
        *,
        fit: Fit = "squash",
        bits: int | None = None,
        max_memory: int = 4 << 30,
        folder: Path | None = None,
        threads: int = 2,
    ) -> None:
        self.samples = list(samples)
        self.size, self.fit, self.bits = size, fit, bits
        self._threads = threads
        self._pixels: NDArray[np.uint8] | None = None
        self._files: list[Path] = []
        self._in_memory = len(self.samples) * size[0] * size[1] * 3 <= max_memory
        self._folder = (folder or default_cache_folder()) / PICTURES

    def rows(self, positions: Sequence[int]) -> NDArray[np.uint8]:
        """Return images [n, H, W, 3] uint8 at ``positions``, a copy.

        Raises:
            UserError: a file cannot be decoded.
        """
        self.fill()
        if self._pixels is not None:
            return np.ascontiguousarray(self._pixels[list(positions)])
        found = np.empty((len(positions), *self.size, 3), dtype=np.uint8)
        for row, position in enumerate(positions):
            found[row] = self._kept(position)
        return found

    def fill(self) -> None:
        """Decode all that is missing; later calls do nothing, forked workers share the result."""
        if self._in_memory:
            if self._pixels is None:
                pixels = np.empty((len(self.samples), *self.size, 3), dtype=np.uint8)
                for position, image in enumerate(self._each(self._decoded)):
                    pixels[position] = image
                self._pixels = pixels
        elif not self._files:
            self._files = self._named()
            for _ in self._each(self._stored):
                pass
            drop_beyond(cache_limit(), self._folder, keep=self._files)

    def _each(self, make: Callable[[int], T]) -> Iterator[T]:
        with ThreadPoolExecutor(self._threads) as pool:
            yield from pool.map(make, range(len(self.samples)))

    def _decoded(self, position: int) -> NDArray[np.uint8]:
        return resized_image(self.samples[position].image, self.size, self.fit, self.bits)

    def _named(self) -> list[Path]:
        contents = facts_of([sample.image for sample in self.samples], "sha256", content_hash)
        how = f"{FORMAT} {self.size} {self.fit} {self.bits}"
        keys = [hashlib.sha256(f"{how} {content}".encode()).hexdigest() for content in contents]
        return [self._folder / key[:2] / f"{key[2:34]}.u8" for key in keys]

    def _kept(self, position: int) -> NDArray[np.uint8]:
        """Return the stored image, made again where another process dropped it."""
        found = _loaded(self._files[position], (*self.size, 3))
        return self._decoded(position) if found is None else found

    def _stored(self, position: int) -> None:
        file, shape = self._files[position], (*self.size, 3)
        if file.is_file() and file.stat().st_size == int(np.prod(shape)):
            with contextlib.suppress(OSError):
                os.utime(file)  # used now: the last to be dropped
        else:
            _store(file, self._decoded(position))


def _loaded(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        return np.fromfile(file, dtype=np.uint8).reshape(shape)
    except (OSError, ValueError):
        return None


def _store(file: Path, image: NDArray[np.uint8]) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(np.ascontiguousarray(image).tobytes())
        os.replace(temporary, file)
    except OSError as error:
        raise UserError(
            f"cannot write the image cache {file.parent.parent}: {error.strerror}; free space, or "
            "set ADBENCH_CACHE=FOLDER or a higher train.max_memory"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def drop_beyond(limit: int, folder: Path, keep: Sequence[Path] = ()) -> int:
    """Remove the entries used least recently until ``limit`` bytes are left; return how many.

    Temporary files of killed processes go as well. A run's own pictures (``keep``) stay while it
    runs, even beyond the limit.
    """
    kept = set(keep)
    entries = []
    for path in folder.glob("*/*"):
        with contextlib.suppress(OSError):  # another process may remove it at the same time
            status = path.stat()
            if path.name.endswith(".tmp"):
                if _abandoned(path, status.st_mtime):
                    path.unlink()
            else:
                entries.append((status.st_mtime_ns, status.st_size, path))
    excess = sum(size for _, size, _ in entries) - limit
    dropped = 0
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        if path not in kept:
            path.unlink(missing_ok=True)
            excess, dropped = excess - size, dropped + 1
    return dropped


def _abandoned(temporary: Path, changed: float) -> bool:
    """Whether nobody writes the file any more: its process has ended, or it is long unchanged."""
    if time.time() - changed > _LEFT_OVER:
        return True
    pid = temporary.name.split(".")[-3]
    return pid.isdecimal() and not is_running(int(pid))


def cached_bytes(folder: Path | None = None) -> int:
    """Return how many bytes of decoded pictures the cache folder holds."""
    total = 0
    for path in ((folder or default_cache_folder()) / PICTURES).glob("*/*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
