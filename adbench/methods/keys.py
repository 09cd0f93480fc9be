"""Sections of a method's yaml as frozen records that refuse what they do not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from adbench.errors import UserError, nearest

Keys = TypeVar("Keys")


def section(kind: type[Keys], values: Mapping[str, Any] | None, name: str) -> Keys:
    """Return the dataclass ``kind`` made of a section of the model's configuration.

    Lists become tuples, so that records stay hashable.

    Raises:
        UserError: the section holds a key that ``kind`` does not know.
    """
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    made = {}
    for key, value in (values or {}).items():
        if key not in known:
            raise UserError(f"no key '{key}' in model.{name}{nearest(str(key), known)}")
        made[key] = tuple(value) if isinstance(value, list) else value
    return kind(**made)


def chosen(value: Any, known: Sequence[str], key: str) -> Any:
    """Return ``value``.

    Raises:
        UserError: it is none of ``known``.
    """
    if value not in known:
        names = ", ".join(known)
        raise UserError(f"model.{key}={value}: choose one of {names}{nearest(str(value), known)}")
    return value
