"""Two workers of one run: a kill -9 takes the pictures of its own worker along and no other."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from adbench.deploy.settings import ServeKeys
from adbench.deploy.station import GoneError, Station


async def outcome(station, picture):
    try:
        return (await station.score("a.png", picture)).status
    except GoneError:
        return "gone"


async def killed_in_the_middle(station, picture):
    """Return what became of ten pictures of which a stopped worker held some, and of ten more."""
    await station.start()
    try:
        first, other = station.workers
        os.kill(first.process.pid, signal.SIGSTOP)
        asked = [asyncio.create_task(outcome(station, picture)) for _ in range(10)]
        while other.waiting or not first.waiting:
            await asyncio.sleep(0.01)
        held = len(first.waiting)
        os.kill(first.process.pid, signal.SIGKILL)
        found = await asyncio.gather(*asked)
        meanwhile = await asyncio.gather(*[outcome(station, picture) for _ in range(10)])
        while not station.restarts or not all(worker.alive for worker in station.workers):
            await asyncio.sleep(0.05)
        return held, found, meanwhile
    finally:
        await station.close()


def test_a_killed_worker_takes_its_own_pictures_along_and_no_others(run):
    folder, data = run
    picture = (data / "nut/test/good/000.png").read_bytes()
    told = []
    station = Station("nut", folder, ServeKeys(run=str(folder), workers=2), told.append)
    held, found, meanwhile = asyncio.run(
        asyncio.wait_for(killed_in_the_middle(station, picture), 120)
    )
    assert 1 <= held <= 5  # pictures go where fewest wait
    assert found.count("gone") == held
    assert found.count(200) == 10 - held
    assert meanwhile == [200] * 10
    assert station.pending == 0
    assert [line.endswith("starting another") for line in told] == [True]
    with pytest.raises(GoneError):
        asyncio.run(station.score("a.png", picture))
