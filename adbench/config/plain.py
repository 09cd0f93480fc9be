"""Keys of verbs that compose nothing: read without Hydra and YAML, typed by the one mechanism."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from adbench.config.typed import (
    converted,
    declared,
    item_of,
    scalars_of,
    shown,
    takes_list,
    takes_text,
)
from adbench.errors import UserError, nearest

T = TypeVar("T")
_WORD = re.compile(r"(?P<key>[A-Za-z_]\w*)=(?P<value>.*)", re.DOTALL)
_WHOLE = re.compile(r"[+-]?\d{1,40}")
_NAMES: dict[str, Any] = {"null": None, "true": True, "false": False}


def plain_keys(kind: type[T], words: Sequence[str], verb: str) -> T:
    """Return the record ``kind`` made of ``key=value`` words; of a key given twice the last counts.

    Values of text keys are taken as typed. conf/VERB.yaml says what each key means.

    Raises:
        UserError: a word is no ``key=value``, a key is unknown, or a value does not fit.
    """
    hints, needed = declared(kind)
    found: dict[str, Any] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise UserError(f"cannot read {shown(word)}: write key=value")
        key = match["key"]
        if key not in hints:
            raise UserError(f"no key '{shown(key)}' in {verb}{nearest(key, hints)}")
        found[key] = converted(_value(match["value"], hints[key]), hints[key], key)
    for key in needed:
        if key not in found:
            raise UserError(f"{key}= is missing: adbench {verb} --help")
    return kind(**found)


def _value(text: str, hint: Any) -> Any:
    """Return what ``text`` means where ``hint`` is expected."""
    if takes_list(hint) and text.startswith("[") and text.endswith("]"):
        items = [item.strip() for item in text[1:-1].split(",")]
        return [_value(item, item_of(hint)) for item in items if item]
    if text == "null" or (text in _NAMES and bool in scalars_of(hint)):
        return _NAMES[text]
    number = _number(text)
    if takes_text(hint):
        return number if number is not None and type(number) in scalars_of(hint) else text
    return text if number is None and text not in _NAMES else _NAMES.get(text, number)


def _number(text: str) -> int | float | None:
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return None
