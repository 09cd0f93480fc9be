"""HTTP/1.1 of uvicorn, with a limit on the seconds that a request's head may take."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class HeadTimed(H11Protocol):
    """Answers 408 and closes where a head is not whole ``head_seconds`` after it could begin.

    The time runs from the connection, and on a kept one from a head's first byte; before that byte
    uvicorn's own limit on idle connections holds.
    """

    head_seconds = 10.0

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the head is whole, or the request is refused
            self._stop()
        elif self._late is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._late = self.loop.call_later(self.head_seconds, self._too_late)

    def _stop(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.transport.is_closing() or self.conn.our_state is not h11.IDLE:
            return
        why = f"the head took longer than {self.head_seconds} s".encode()
        head = [("Content-Type", "text/plain"), ("Connection", "close")]
        events = (
            h11.Response(status_code=408, headers=head, reason=b"Request Timeout"),
            h11.Data(data=why),
            h11.EndOfMessage(),
        )
        # in one piece: whoever reads once has the reason too
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


def head_timed(seconds: float) -> type[HeadTimed]:
    """Return the protocol with another limit."""
    return type("HeadTimed", (HeadTimed,), {"head_seconds": seconds})
