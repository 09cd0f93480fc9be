"""The HTTP service: routes, limits, metrics. What scores lives in other processes (station)."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adbench.deploy.bodies import FullError, Held, RefusedError, Upload, uploads
from adbench.deploy.openapi import openapi
from adbench.deploy.settings import ServeKeys
from adbench.deploy.station import BusyError, GoneError, Reply, Station
from adbench.errors import UserError

_PAGE = Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/docs.js": ("docs.js", "text/javascript"),
}
_SAFE = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
_HEAD_BYTES = 16 << 10
_ARRIVING = 8  # bodies of the largest size that may be in memory before they are whole
_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
Handler = Callable[[Request], Awaitable[Response]]


class Figures:
    """What /metrics tells."""

    def __init__(self, stations: Mapping[str, Station]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "adbench_requests",
            "requests by path and status",
            ["path", "status"],
            registry=self.registry,
        )
        self.pictures = Counter(
            "adbench_pictures",
            "pictures by run and verdict",
            ["run", "verdict"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "adbench_request_seconds",
            "seconds of a scoring request",
            ["run"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.batch = Histogram(
            "adbench_batch",
            "pictures scored together",
            ["run"],
            registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        pending = Gauge("adbench_pending", "pictures that wait", ["run"], registry=self.registry)
        died = Gauge(
            "adbench_worker_restarts", "workers that died", ["run"], registry=self.registry
        )
        for name, station in stations.items():
            pending.labels(name).set_function(_read(station, "pending"))
            died.labels(name).set_function(_read(station, "restarts"))


def _read(station: Station, name: str) -> Callable[[], float]:
    return lambda: float(getattr(station, name))


class Service:
    """The application over its stations.

    Args:
        token: the bearer token that every call but health and the page needs; None for none.
    """

    def __init__(self, stations: Mapping[str, Station], keys: ServeKeys, token: str | None) -> None:
        self.stations, self.keys, self.token = dict(stations), keys, token
        self.figures = Figures(self.stations)
        self.held = Held(_ARRIVING * keys.max_bytes)
        self.paused = False
        self.app = Starlette(routes=self._routes(), lifespan=self._lifespan)

    def _routes(self) -> list[Route]:
        found = [Route(path, _file(*told)) for path, told in _FILES.items()]
        calls: list[tuple[str, str, Handler]] = [
            ("/health/live", "GET", self._live),
            ("/health/ready", "GET", self._ready),
            ("/openapi.json", "GET", self._openapi),
            ("/metrics", "GET", self._guarded(self._metrics)),
            ("/v1/models", "GET", self._guarded(self._models)),
            ("/v1/score", "POST", self._guarded(self._score)),
            ("/v1/overlay", "POST", self._guarded(self._overlay)),
            ("/v1/reload", "POST", self._guarded(self._reload)),
            ("/v1/pause", "POST", self._guarded(self._pause)),
            ("/v1/resume", "POST", self._guarded(self._resume)),
        ]
        return found + [Route(path, handler, methods=[method]) for path, method, handler in calls]

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Drain at the end: what was taken is answered before the workers go."""
        yield
        self.paused = True
        await asyncio.gather(*[station.close() for station in self.stations.values()])

    def _guarded(self, handler: Handler) -> Handler:
        """Return the handler behind the token, with every refusal as JSON."""

        async def guarded(request: Request) -> Response:
            try:
                self._check_caller(request)
                answer = await handler(request)
            except RefusedError as error:
                answer = _refusal(error.status, error.why)
            except BusyError:
                answer = _refusal(429, f"{self.keys.queue} pictures wait already; try again")
                answer.headers["Retry-After"] = "1"
            except FullError:
                answer = _refusal(429, "too many large bodies are arriving; try again")
                answer.headers["Retry-After"] = "1"
            except GoneError:
                answer = _refusal(503, "the worker that had the picture died; send it again")
                answer.headers["Retry-After"] = "1"
            named = request.headers.get("x-request-id", "")
            if named.isascii() and named.isprintable() and 0 < len(named) <= 100:
                answer.headers["X-Request-Id"] = named
            self.figures.requests.labels(request.url.path, str(answer.status_code)).inc()
            return answer

        return guarded

    def _check_caller(self, request: Request) -> None:
        """Refuse a wrong token, and pages of other sites that use somebody's browser."""
        if sum(len(name) + len(value) for name, value in request.headers.raw) > _HEAD_BYTES:
            raise RefusedError(431, f"a head of at most {_HEAD_BYTES} bytes is taken")
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise RefusedError(403, "pages of other origins are not answered")
        if self.token is None:
            return
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            raise RefusedError(401, "a bearer token is needed")

    def _station(self, request: Request) -> Station:
        name = request.query_params.get("run")
        if name is None and len(self.stations) == 1:
            return next(iter(self.stations.values()))
        if name not in self.stations:
            known = ", ".join(self.stations)
            raise RefusedError(400, f"run='{(name or '')[:80]}': choose one of {known}")
        return self.stations[name]

    async def _judged(self, station: Station, upload: Upload, *, overlay: bool) -> Reply:
        reply = await station.score(upload.name, upload.data, overlay=overlay)
        self.figures.pictures.labels(station.name, reply.record["verdict"]).inc()
        if reply.batch:
            self.figures.batch.labels(station.name).observe(reply.batch)
        return reply

    async def _taken(self, request: Request) -> tuple[Station, list[Upload]]:
        station = self._station(request)
        if self.paused:
            raise RefusedError(503, "paused")
        if station.pending >= self.keys.queue:  # before a body is read that nobody can score
            raise BusyError
        return station, await uploads(request, self.keys, self.held)

    async def _score(self, request: Request) -> Response:
        start = time.perf_counter()
        station, found = await self._taken(request)
        several = request.headers.get("content-type", "").lower().startswith("multipart/")
        if station.pending + len(found) > self.keys.queue:
            raise BusyError
        replies = await asyncio.gather(
            *[self._judged(station, upload, overlay=False) for upload in found]
        )
        self.figures.seconds.labels(station.name).observe(time.perf_counter() - start)
        if not several:
            return JSONResponse(replies[0].record, replies[0].status)
        statuses = [reply.status for reply in replies]
        status = 200 if 200 in statuses else max(statuses)
        return JSONResponse({"results": [reply.record for reply in replies]}, status)

    async def _overlay(self, request: Request) -> Response:
        station, found = await self._taken(request)
        if len(found) != 1:
            raise RefusedError(400, "one picture at a time is drawn")
        reply = await self._judged(station, found[0], overlay=True)
        if reply.status != 200:
            return JSONResponse(reply.record, reply.status)
        record = reply.record
        headers = {
            "X-Id": record["id"],
            "X-Verdict": record["verdict"],
            "X-Score": repr(record["score"]),
            "X-Threshold": repr(record["threshold"]),
            "X-Model": quote(record["model"]),
        }
        return Response(reply.drawn, media_type="image/png", headers=headers)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"models": {n: s.card for n, s in self.stations.items()}})

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self.figures.registry), media_type="text/plain")

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"live": True})

    async def _ready(self, _: Request) -> Response:
        down = [name for name, station in self.stations.items() if not station.ready]
        why = (
            "paused" if self.paused else f"no worker lives for {', '.join(down)}" if down else None
        )
        return JSONResponse({"ready": why is None, "why": why}, 200 if why is None else 503)

    async def _openapi(self, _: Request) -> Response:
        return JSONResponse(openapi())

    async def _reload(self, request: Request) -> Response:
        try:
            return JSONResponse(await self._station(request).reload())
        except UserError as error:
            raise RefusedError(409, f"the old one is kept: {error}") from error

    async def _pause(self, _: Request) -> Response:
        self.paused = True
        return JSONResponse({"paused": True})

    async def _resume(self, _: Request) -> Response:
        self.paused = False
        return JSONResponse({"paused": False})


def _refusal(status: int, why: str) -> Response:
    return JSONResponse({"verdict": "error", "error": why}, status)


def _file(name: str, kind: str) -> Handler:
    content = (_PAGE / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind, headers=_SAFE)

    return answer
