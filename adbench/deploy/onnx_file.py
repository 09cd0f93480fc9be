"""ONNX files before they are opened: nothing outside of the file, no loops, known operators."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from adbench.data.files import check_regular, shown_path
from adbench.errors import UserError

_LARGEST = 2 << 30  # bytes; protobuf's own limit
_DEEPEST = 16  # graphs inside graphs
_DOMAINS = {b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft"}
_ENDLESS = {b"Loop", b"Scan"}  # no detector has one; a hostile file could run for ever
# field numbers of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_FUNCTION_NODE = 7
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5


def check_onnx(path: Path) -> None:
    """Refuse an ONNX file that refers to data outside of itself, loops, or brings operators.

    Walks the file's protobuf without interpreting it; adbench writes one file that holds all.

    Raises:
        UserError: as above, or it is no protobuf.
    """
    size = check_regular(path, "model").st_size
    if not 0 < size < _LARGEST:
        raise UserError(f"{shown_path(path)} has {size} bytes: no ONNX file of a detector")
    try:
        _check_model(memoryview(path.read_bytes()))
    except _BrokenError as error:
        raise UserError(f"{shown_path(path)} is no sound ONNX file: {error}") from None


class _BrokenError(Exception):
    """What is wrong with the bytes."""


def _fields(view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield (number, wire type, value bytes) of each field of a message."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _varint(view, at)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == _VARINT:
            _, at = _varint(view, at)
        elif wire == _BYTES:
            length, start = _varint(view, at)
            at = start + length
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise _BrokenError(f"an unknown kind of field at byte {at}")
        if at > end:
            raise _BrokenError("it is cut off")
        part = view[start:at]
        yield number, wire, part


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise _BrokenError("it is cut off")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _BrokenError(f"an endless number at byte {at}")


def _check_model(view: memoryview) -> None:
    graphs = 0
    for number, wire, part in _fields(view):
        if number == _MODEL_GRAPH and wire == _BYTES:
            graphs += 1
            _check_graph(part, 0)
        elif number == _MODEL_FUNCTIONS and wire == _BYTES:
            for inner, kind, node in _fields(part):
                if inner == _FUNCTION_NODE and kind == _BYTES:
                    _check_node(node, 0)
    if not graphs:
        raise _BrokenError("it holds no graph")


def _check_graph(view: memoryview, depth: int) -> None:
    if depth > _DEEPEST:
        raise _BrokenError("its graphs are nested too deeply")
    for number, wire, part in _fields(view):
        if wire != _BYTES:
            continue
        if number == _GRAPH_NODE:
            _check_node(part, depth)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(part)
        elif number == _GRAPH_SPARSE:
            raise _BrokenError("it holds sparse tensors")


def _check_node(view: memoryview, depth: int) -> None:
    for number, wire, part in _fields(view):
        if wire != _BYTES:
            continue
        if number == _NODE_TYPE and part in _ENDLESS:
            raise _BrokenError(f"it holds the operator {bytes(part).decode()}, which need not end")
        if number == _NODE_DOMAIN and not _known_domain(bytes(part)):
            raise _BrokenError(f"operators of the unknown domain {bytes(part)[:40]!r}")
        if number == _NODE_ATTRIBUTE:
            _check_attribute(part, depth)


def _known_domain(name: bytes) -> bool:
    return name in _DOMAINS or name.startswith(b"pkg.")  # functions inside the file itself


def _check_attribute(view: memoryview, depth: int) -> None:
    for number, wire, part in _fields(view):
        if wire != _BYTES:
            continue
        if number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            _check_tensor(part)
        elif number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            _check_graph(part, depth + 1)
        elif number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            raise _BrokenError("it holds sparse tensors")


def _check_tensor(view: memoryview) -> None:
    for number, wire, part in _fields(view):
        outside = number == _TENSOR_LOCATION and wire == _VARINT and bytes(part) != b"\0"
        if number == _TENSOR_EXTERNAL or outside:
            raise _BrokenError("it refers to data in another file, which is never followed")


def bin_beside(path: Path) -> Path:
    """Return the file of weights of an OpenVINO .xml, which must lie beside it.

    Raises:
        UserError: it is missing, or a link.
    """
    weights = path.with_suffix(".bin")
    check_regular(weights, "weights")
    if os.path.islink(weights) or os.path.islink(path):
        raise UserError(f"{shown_path(path)}: links are not followed")
    return weights
