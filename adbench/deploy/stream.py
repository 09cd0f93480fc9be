"""Decoding beside scoring, in bounded memory."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from adbench.deploy.reading import Picture, Reading
from adbench.deploy.sources import Item
from adbench.errors import UserError


@dataclass(frozen=True, slots=True)
class Decoded:
    """An item with its picture, or with what is wrong with it; ``milliseconds`` of decoding."""

    item: Item
    picture: Picture | None
    error: str | None
    milliseconds: float


def decoded(item: Item, reading: Reading, max_pixels: int, *, view: bool) -> Decoded:
    """Return the picture of an item; never raises: what is wrong is told of this one alone."""
    start = time.perf_counter()
    picture, error = None, item.error
    try:
        if error is None and item.frame is not None:
            picture = reading.of_pixels(item.frame, view=view)
        elif error is None and item.path is not None:
            picture = reading.picture(item.path, max_pixels, view=view)
    except UserError as told:
        error = str(told)
    except Exception as told:  # a decoder's own errors are a picture's, not the program's
        error = " ".join(f"{item.name} cannot be decoded: {told}".split())[:300]
    return Decoded(item, picture, error, 1000 * (time.perf_counter() - start))


class Ahead:
    """Decodes items in threads of its own while the caller scores.

    At most ``depth`` items are decoded and not yet taken: memory does not grow with the source.

    Args:
        items: may wait for the next one, as a camera does.
        decode: never raises.
    """

    def __init__(
        self,
        items: Iterable[Item],
        decode: Callable[[Item], Decoded],
        *,
        threads: int = 1,
        depth: int = 16,
    ) -> None:
        self._items, self._decode = items, decode
        self._ready: queue.Queue[Future[Decoded] | BaseException | None] = queue.Queue(depth)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="source", daemon=True)
        self._thread.start()

    def _feed(self) -> None:
        end: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(self._pool.submit(self._decode, item)):
                    return
        except BaseException as error:  # raised again where the items are taken
            end = error
        self._put(end)

    def _put(self, value: Future[Decoded] | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(value, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def batches(self, size: int) -> Iterator[list[Decoded]]:
        """Yield what is there, in order, 1 to ``size`` items at a time; never wait to fill up."""
        try:
            while True:
                found = [self._ready.get()]
                while len(found) < size and isinstance(found[-1], Future):
                    try:
                        found.append(self._ready.get_nowait())
                    except queue.Empty:
                        break
                whole = [each.result() for each in found if isinstance(each, Future)]
                if whole:
                    yield whole
                if isinstance(found[-1], BaseException):
                    raise found[-1]
                if found[-1] is None:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """Stop reading ahead."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
