"""Bodies of requests: what they hold together is bounded."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from adbench.deploy.bodies import FullError, Held, uploads
from adbench.deploy.settings import ServeKeys

KEYS = ServeKeys(run="x")


def request(messages):
    """A request whose body comes as ``messages`` do."""
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b""}
    return Request({**scope, "headers": [(b"content-type", b"image/png")]}, messages.get)


def test_arriving_bodies_hold_a_bounded_number_of_bytes_together():
    async def both():
        held, first, second = Held(1000), asyncio.Queue(), asyncio.Queue()
        part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
        first.put_nowait(part)
        arriving = asyncio.create_task(uploads(request(first), KEYS, held))
        while held.bytes < 600:
            await asyncio.sleep(0)
        second.put_nowait(part)
        with pytest.raises(FullError):
            await uploads(request(second), KEYS, held)
        assert held.bytes == 600  # what was refused is given back
        first.put_nowait({**part, "body": b"y", "more_body": False})
        assert (await arriving)[0].data == b"x" * 600 + b"y"
        assert held.bytes == 0

    asyncio.run(both())
