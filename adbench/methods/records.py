"""Records of a method's keys as plain values, for a detector's config and a stage's hash."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


def plain_values(record: Any) -> dict[str, Any]:
    """Return a dataclass's fields as YAML and JSON know them: tuples become lists.

    Raises:
        TypeError: ``record`` is no dataclass.
    """
    return {name: _plain(value) for name, value in asdict(record).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
