"""Messages between the service and its workers: JSON and bytes, each with its length."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

_HEAD = struct.Struct(">II")
HEAD = _HEAD.size
_MOST = 1 << 31


def packed(document: dict[str, Any], body: bytes = b"") -> bytes:
    """Return one message."""
    text = json.dumps(document).encode()
    return _HEAD.pack(len(text), len(body)) + text + body


def lengths(head: bytes) -> tuple[int, int]:
    """Return how many bytes of JSON and of body follow a head.

    Raises:
        ValueError: no head of ours.
    """
    text, body = _HEAD.unpack(head)
    if text > _MOST or body > _MOST:
        raise ValueError("a message of absurd length")
    return text, body


def received(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Return the next message; None where the other side is gone."""
    head = stream.read(HEAD)
    if len(head) < HEAD:
        return None
    text, body = lengths(head)
    document, data = stream.read(text), stream.read(body)
    if len(document) < text or len(data) < body:
        return None
    found: dict[str, Any] = json.loads(document)
    return found, data
