"""Bodies of requests, read with limits on bytes, time and parts before anything is decoded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request

from adbench.deploy.settings import ServeKeys

_TYPES = ("image/", "application/octet-stream", "multipart/form-data")


class RefusedError(Exception):
    """A request that is answered with a status of 4xx or 5xx and a reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class Held:
    """Bytes of bodies that are arriving, all connections together: at most ``most`` at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0


class FullError(Exception):
    """Bodies that are arriving hold as many bytes as may be."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture as it was sent: its name and its bytes, not yet looked at."""

    name: str
    data: bytes


async def uploads(request: Request, keys: ServeKeys, held: Held) -> list[Upload]:
    """Return the pictures of a request: one as the body itself, or several as multipart.

    Raises:
        RefusedError: the type is not taken, or the body is empty, too large or too slow.
        FullError: others' bodies hold the memory that there is for them.
    """
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith(_TYPES):
        raise RefusedError(
            415,
            f"content type '{kind[:60]}': send the file as image/png, "
            "application/octet-stream or multipart/form-data",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "compressed bodies are not taken")
    data = await _body(request, keys, held)
    if not data:
        raise RefusedError(400, "the body is empty: a picture is expected")
    if not kind.startswith("multipart/"):
        return [Upload(request.query_params.get("name", "upload")[:200], data)]
    return _parts(data, request.headers["content-type"], keys.max_images)


async def _body(request: Request, keys: ServeKeys, held: Held) -> bytes:
    told = request.headers.get("content-length")
    if told is not None and (not told.isdecimal() or int(told) > keys.max_bytes):
        raise RefusedError(413, f"at most {keys.max_bytes} bytes are taken")
    found = bytearray()
    try:
        async with asyncio.timeout(keys.body_seconds):
            async for chunk in request.stream():
                found += chunk
                held.bytes += len(chunk)
                if len(found) > keys.max_bytes:
                    raise RefusedError(413, f"at most {keys.max_bytes} bytes are taken")
                if held.bytes > held.most:
                    raise FullError
    except TimeoutError:
        raise RefusedError(408, f"the body took longer than {keys.body_seconds} s") from None
    except ClientDisconnect:
        raise RefusedError(400, "the connection ended within the body") from None
    finally:
        held.bytes -= len(found)
    return bytes(found)


class _Parts:
    """Collects the parts of a multipart body; the parser's callbacks."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: list[tuple[dict[bytes, bytes], bytearray]] = []
        self._name, self._value = bytearray(), bytearray()

    def on_part_begin(self) -> None:
        if len(self.found) >= self.most:
            raise RefusedError(413, f"at most {self.most} pictures at once")
        self.found.append(({}, bytearray()))

    def on_header_field(self, chunk: bytes, start: int, end: int) -> None:
        self._name += chunk[start:end]

    def on_header_value(self, chunk: bytes, start: int, end: int) -> None:
        self._value += chunk[start:end]

    def on_header_end(self) -> None:
        self.found[-1][0][bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def on_part_data(self, chunk: bytes, start: int, end: int) -> None:
        self.found[-1][1].extend(chunk[start:end])


def _parts(data: bytes, kind: str, most: int) -> list[Upload]:
    """Return the files of a multipart body.

    Raises:
        RefusedError: it is damaged, holds none, or too many.
    """
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary:
        raise RefusedError(400, "multipart without a boundary")
    parts = _Parts(most)
    callbacks = {name: getattr(parts, name) for name in vars(_Parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(data)
        parser.finalize()
    except RefusedError:
        raise
    except Exception as error:  # the parser's own kinds of error
        raise RefusedError(400, f"the multipart body is damaged: {error}") from None
    found = []
    for headers, body in parts.found:
        named = parse_options_header(headers.get(b"content-disposition", b""))[1]
        name = named.get(b"filename")
        if name is not None:
            found.append(Upload(name.decode("utf-8", "replace")[:200], bytes(body)))
    if not found:
        raise RefusedError(400, "no part of the multipart body is a file")
    return found
