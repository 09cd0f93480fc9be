"""Starts the service and ends it in order."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import uvicorn

from adbench.deploy.protocol import head_timed
from adbench.deploy.service import Service
from adbench.deploy.settings import ServeKeys
from adbench.deploy.station import Station
from adbench.errors import UserError

_HEADER_BYTES = 16 << 10  # of a request's head; more is answered with 400 and closed
_KEEP_ALIVE = 15  # seconds
TOKEN = "ADBENCH_SERVE_TOKEN"


def named_places(keys: ServeKeys) -> dict[str, Path]:
    """Return name -> folder or file; ``NAME:PATH`` names one, else it is called after its path.

    Raises:
        UserError: a place is missing, or two have one name.
    """
    found: dict[str, Path] = {}
    for given in keys.places:
        name, sign, rest = given.partition(":")
        path = Path(given).expanduser()
        if sign and not path.exists() and name.isidentifier():
            path = Path(rest).expanduser()
        else:
            name = path.stem if path.is_file() else path.name
        if not path.exists():
            raise UserError(f"run={path} does not exist")
        if name in found:
            raise UserError(f"two runs are called {name}: write run=[first:PATH,second:PATH]")
        found[name] = path
    return found


def read_token(file: str | None) -> str | None:
    """Return the bearer token of a file or of ADBENCH_SERVE_TOKEN; None for none.

    Raises:
        UserError: the file is missing, empty, or others may read it.
    """
    if file is None:
        return os.environ.get(TOKEN) or None
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"token_file={file} is missing")
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        raise UserError(f"token_file={file} can be read by others: chmod 600 {file}")
    token = path.read_text("utf-8").strip()
    if len(token) < 16 or not token.isascii():
        raise UserError(f"token_file={file}: at least 16 ASCII characters are expected")
    return token


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UserError: the address is taken or not this machine's.
    """
    try:
        kind = socket.AF_INET6 if ":" in host else socket.AF_INET
        found = socket.socket(kind, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(1024)
    except OSError as error:
        raise UserError(f"host={host} port={port}: {error.strerror or error}") from error
    return found


def serve(
    places: dict[str, Path],
    keys: ServeKeys,
    token: str | None,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; ``tell`` takes the address once pictures are taken.

    Raises:
        UserError: a run cannot be opened, or the address is taken.
    """
    if keys.host not in ("127.0.0.1", "localhost", "::1") and token is None:
        say(f"warning: host={keys.host} without a token: whoever reaches it may use it")
    door = listening(keys.host, keys.port)
    asyncio.run(_serve(places, keys, token, door, say, tell))


async def _serve(
    places: dict[str, Path],
    keys: ServeKeys,
    token: str | None,
    door: socket.socket,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> None:
    stations = {name: Station(name, path, keys, say) for name, path in places.items()}
    try:
        for name, station in stations.items():
            await station.start()
            card = station.card
            say(f"{name}: {card['model']} ({card['engine']}), threshold {card['threshold']:.6g}")
        service = Service(stations, keys, token)
        config = uvicorn.Config(
            service.app,
            http=head_timed(keys.head_seconds),
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=int(keys.drain_seconds) or 1,
        )
        host, port = door.getsockname()[:2]
        tell(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await uvicorn.Server(config).serve(sockets=[door])
    finally:
        for station in stations.values():
            for worker in station.workers:
                if worker.process.returncode is None:
                    worker.process.kill()
