"""Decoded and resized images, kept as uint8 so that a run decodes each file once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.data.images import read_image
from adbench.data.sample import Sample

FORMAT = 1  # raise when decoding or resizing changes: old files are then not reused


def resized_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image as uint8 [H, W, 3] RGB, squashed to ``size`` (height, width).

    Shrinking averages over the covered area (no aliasing), growing is bilinear.

    Raises:
        UserError: the file cannot be decoded.
    """
    image = read_image(path)
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrink = image.shape[0] >= height and image.shape[1] >= width
    method = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def default_cache_folder() -> Path:
    """Return where memory-mapped caches lie: ``ADBENCH_CACHE``, else below the user's cache."""
    chosen = os.environ.get("ADBENCH_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    return Path(base) / "adbench"


class ImageCache:
    """All images of a split at one size, [N, H, W, 3] uint8.

    In memory when ``max_memory`` bytes hold them, else in a memory-mapped file keyed by paths,
    sizes, modification times and target size; a file left by an interrupted process is not used.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int],
        *,
        max_memory: int = 4 << 30,
        folder: Path | None = None,
        threads: int = 2,
    ) -> None:
        self.samples = list(samples)
        self.size = size
        self._threads = threads
        self._pixels: NDArray[np.uint8] | None = None
        self._file = None
        needed = len(self.samples) * size[0] * size[1] * 3
        if needed > max_memory:
            self._file = (folder or default_cache_folder()) / f"{self.key()}.npy"

    def key(self) -> str:
        """Return the hash of everything the pixels depend on."""
        digest = hashlib.sha256(f"{FORMAT} {self.size}".encode())
        for sample in self.samples:
            status = sample.image.stat()
            digest.update(f"{sample.image} {status.st_size} {status.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:32]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """[N, H, W, 3] uint8, decoded at first use."""
        if self._pixels is None:
            self._pixels = self._decoded() if self._file is None else self._mapped(self._file)
        return self._pixels

    def _decoded(self) -> NDArray[np.uint8]:
        pixels = np.empty((len(self.samples), *self.size, 3), dtype=np.uint8)
        self._fill(pixels)
        return pixels

    def _mapped(self, path: Path) -> NDArray[np.uint8]:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            shape = (len(self.samples), *self.size, 3)
            pixels = np.lib.format.open_memmap(temporary, "w+", dtype=np.uint8, shape=shape)
            try:
                self._fill(pixels)
                pixels.flush()
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        loaded: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        return loaded

    def _fill(self, pixels: NDArray[np.uint8]) -> None:
        def fill(index: int) -> None:
            pixels[index] = resized_image(self.samples[index].image, self.size)

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(fill, range(len(self.samples))):
                pass
