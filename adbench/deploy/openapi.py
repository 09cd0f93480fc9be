"""The service's interface as an OpenAPI document."""

from __future__ import annotations

from typing import Any

from adbench import __version__

_BAD = {
    "400": "empty, or no such run",
    "401": "the bearer token is missing or wrong",
    "408": "the head or the body came too slowly",
    "411": "a body is expected",
    "413": "too many bytes, pixels or pictures",
    "415": "a content type that is not taken",
    "422": "the picture cannot be read",
    "429": "too many pictures wait; see Retry-After",
    "503": "paused, draining, or a worker died; try again",
}
_RUN = {
    "name": "run",
    "in": "query",
    "required": False,
    "description": "a run's name; may be left out where one is served",
    "schema": {"type": "string"},
}
_RECORD = {
    "type": "object",
    "required": ["schema", "id", "time", "verdict"],
    "properties": {
        "schema": {"type": "integer", "const": 1},
        "id": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "source": {"type": "string"},
        "verdict": {"type": "string", "enum": ["ok", "ng", "error"]},
        "score": {"type": ["number", "null"]},
        "threshold": {"type": ["number", "null"]},
        "confidence": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
        "regions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "box": {"type": "array", "items": {"type": "integer"}},
                    "area": {"type": "number"},
                    "peak": {"type": "number"},
                },
            },
        },
        "milliseconds": {"type": "object"},
        "model": {"type": "string"},
        "error": {"type": ["string", "null"]},
    },
}


def openapi() -> dict[str, Any]:
    """Return the document."""
    picture = {"schema": {"type": "string", "format": "binary"}}
    body = {
        "required": True,
        "content": {
            "application/octet-stream": picture,
            "image/*": picture,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": picture["schema"]}},
                }
            },
        },
    }
    record = {"application/json": {"schema": {"$ref": "#/components/schemas/Inspection"}}}
    paths: dict[str, Any] = {
        "/health/live": {"get": _call("the process answers", {"200": "it does"})},
        "/health/ready": {
            "get": _call("pictures are taken", {"200": "yes", "503": "no, with the reason"})
        },
        "/metrics": {"get": _call("figures for Prometheus", {"200": "text"})},
        "/v1/models": {"get": _call("runs by name, with their cards", {"200": "JSON"})},
        "/v1/score": {
            "post": {
                **_call("judge one picture, or several as multipart", {"200": "verdicts", **_BAD}),
                "parameters": [_RUN],
                "requestBody": body,
            }
        },
        "/v1/overlay": {
            "post": {
                **_call("judge one picture and draw it: PNG", {"200": "PNG, X-Verdict", **_BAD}),
                "parameters": [_RUN],
                "requestBody": body,
            }
        },
    }
    paths["/v1/score"]["post"]["responses"]["200"]["content"] = record
    for verb, what in (
        ("reload", "open the run again; no request is lost"),
        ("pause", "take no more pictures"),
        ("resume", "take pictures again"),
    ):
        call = _call(what, {"200": "done", "401": _BAD["401"]})
        paths[f"/v1/{verb}"] = {"post": {**call, "parameters": [_RUN]}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "adbench serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": {"Inspection": _RECORD},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _call(summary: str, answers: dict[str, str]) -> dict[str, Any]:
    told = {code: {"description": text} for code, text in answers.items()}
    return {"summary": summary, "responses": told}
