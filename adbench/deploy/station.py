"""One run behind the service: its worker processes, its bounded queue, its reload."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.deploy.settings import ServeKeys
from adbench.deploy.wire import HEAD, lengths, packed
from adbench.errors import UserError

_START_SECONDS = 300.0  # for a worker to open its detector
_AGAIN_SECONDS = 1.0  # before a worker that died is started anew


class BusyError(Exception):
    """As many pictures wait as may."""


class GoneError(Exception):
    """The worker that had the picture died."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A worker's answer: HTTP status, record, overlay as PNG, how many were scored together."""

    status: int
    record: dict[str, Any]
    drawn: bytes
    batch: int


class WorkerProcess:
    """A worker process as the service sees it."""

    def __init__(self, process: asyncio.subprocess.Process, card: dict[str, Any]) -> None:
        self.process, self.card = process, card
        self.waiting: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0
        self.reader = asyncio.create_task(self._read())

    @classmethod
    async def started(cls, place: Path, keys: ServeKeys) -> WorkerProcess:
        """Return a worker that has opened its detector.

        Raises:
            UserError: it could not.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "adbench.deploy.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(keys.threads)},
            start_new_session=True,  # Ctrl-C is the service's: it drains first
        )
        assert process.stdin is not None
        config = {
            "place": str(place),
            "device": keys.device,
            "threads": keys.threads,
            "max_pixels": keys.max_pixels,
            "batch_size": keys.batch_size,
        }
        process.stdin.write(packed(config))
        try:
            async with asyncio.timeout(_START_SECONDS):
                first, _ = await _message(process)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise UserError(f"{place}: a worker could not be started") from error
        if "refused" in first:
            raise UserError(str(first["refused"]))
        return cls(process, first["card"])

    @property
    def alive(self) -> bool:
        return not self.reader.done()

    async def score(self, name: str, data: bytes, *, overlay: bool) -> Reply:
        """Return the worker's answer.

        Raises:
            GoneError: it died.
        """
        assert self.process.stdin is not None
        self._number += 1
        number = self._number
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting[number] = future
        try:
            self.process.stdin.write(packed({"id": number, "name": name, "overlay": overlay}, data))
            await self.process.stdin.drain()
            return await future
        except (ConnectionError, BrokenPipeError) as error:
            raise GoneError from error
        finally:
            self.waiting.pop(number, None)

    async def _read(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
            while True:
                found, body = await _message(self.process)
                future = self.waiting.get(int(found["id"]))
                if future is not None and not future.done():
                    reply = Reply(found["status"], found["record"], body, found["batch"])
                    future.set_result(reply)
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(GoneError())

    async def close(self, seconds: float) -> None:
        """Let the worker finish what it has, then end it."""
        assert self.process.stdin is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.waiting and self.alive:
                    await asyncio.sleep(0.01)
        self.process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self.process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


async def _message(process: asyncio.subprocess.Process) -> tuple[dict[str, Any], bytes]:
    assert process.stdout is not None
    text, body = lengths(await process.stdout.readexactly(HEAD))
    document: dict[str, Any] = json.loads(await process.stdout.readexactly(text))
    return document, await process.stdout.readexactly(body)


class Station:
    """A run by name: spreads pictures over its workers, replaces those that die.

    Attributes:
        pending: pictures that were taken and are not answered.
        restarts: workers that died and were started anew.
    """

    def __init__(self, name: str, place: Path, keys: ServeKeys, say: Callable[[str], None]) -> None:
        self.name, self.place, self.keys, self.say = name, place, keys, say
        self.workers: list[WorkerProcess] = []
        self.pending = self.restarts = 0
        self._keeper: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()

    @property
    def ready(self) -> bool:
        return any(worker.alive for worker in self.workers)

    @property
    def card(self) -> dict[str, Any]:
        return self.workers[0].card if self.workers else {}

    async def start(self) -> None:
        """Start the workers and keep them.

        Raises:
            UserError: the detector cannot be opened.
        """
        self.workers = await self._started()
        self._keeper = asyncio.create_task(self._keep())

    async def _started(self) -> list[WorkerProcess]:
        count = self.keys.workers
        return list(
            await asyncio.gather(
                *[WorkerProcess.started(self.place, self.keys) for _ in range(count)]
            )
        )

    async def _keep(self) -> None:
        """Start a worker anew when one has died."""
        while True:
            await asyncio.sleep(0.2)
            async with self._changing:
                for place, worker in enumerate(self.workers):
                    if worker.alive:
                        continue
                    self.restarts += 1
                    self.say(f"{self.name}: worker {worker.process.pid} died; starting another")
                    try:
                        self.workers[place] = await WorkerProcess.started(self.place, self.keys)
                    except UserError as error:
                        self.say(f"{self.name}: {error}")
                        await asyncio.sleep(_AGAIN_SECONDS)

    async def score(self, name: str, data: bytes, *, overlay: bool = False) -> Reply:
        """Return the answer of the worker with the fewest pictures waiting.

        Raises:
            BusyError: ``queue`` pictures are waiting.
            GoneError: the worker died, or none lives.
        """
        if self.pending >= self.keys.queue:
            raise BusyError
        living = [worker for worker in self.workers if worker.alive]
        if not living:
            raise GoneError
        self.pending += 1
        try:
            chosen = min(living, key=lambda worker: len(worker.waiting))
            return await chosen.score(name, data, overlay=overlay)
        finally:
            self.pending -= 1

    async def reload(self) -> dict[str, Any]:
        """Open the run again, then let the old workers finish; no request is lost.

        Raises:
            UserError: it cannot be opened: the old workers stay.
        """
        async with self._changing:
            before, self.workers = self.workers, await self._started()
        await asyncio.gather(*[worker.close(self.keys.drain_seconds) for worker in before])
        return self.card

    async def close(self) -> None:
        """Finish what was taken, then end the workers."""
        if self._keeper is not None:
            self._keeper.cancel()
        await asyncio.gather(*[worker.close(self.keys.drain_seconds) for worker in self.workers])
