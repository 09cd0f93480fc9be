"""Values against declared types: the one mechanism that every key of every verb passes.

A section of the configuration is declared as a frozen dataclass whose annotations are the schema:
``steps: Count | None = None`` with ``Count = Annotated[int, Within(1, 10**9)]``. Nothing here
imports torch, so that a wrong request is refused before anything heavy is loaded.
"""

from __future__ import annotations

import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from adbench.errors import UserError, nearest

T = TypeVar("T")
_LONGEST = 60  # characters of a value that a message repeats
_SECTIONS = (dict, Mapping)
_LISTS = (list, tuple, Sequence)
_TEXT_LIMIT = 4096  # characters: longer is no name or path on any system


@dataclass(frozen=True, slots=True)
class Within:
    """Bounds of a number, inclusive unless ``above`` or ``below`` says otherwise."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Whether a finite number lies inside."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return low and high

    def told(self, kind: str) -> str:
        """Return the bounds in words, e.g. ``a number in (0, 1]``."""
        if math.isinf(self.high) or self.high >= 1e9:
            if math.isinf(self.low):
                return kind
            return f"{kind} {'above' if self.above else 'of at least'} {self.low:g}"
        left, right = "(" if self.above else "[", ")" if self.below else "]"
        return f"{kind} in {left}{self.low:g}, {self.high:g}{right}"


Count = Annotated[int, Within(1, 10**9)]
"""How many of something there must be."""
Number = Annotated[int, Within(0, 10**9)]
"""How many of something there may be; 0 for none."""
Side = Annotated[int, Within(1, 16384)]
"""A side of a picture, a kernel or a patch, in pixels."""
Width = Annotated[int, Within(1, 65536)]
"""Channels or units of a layer."""
Bytes = Annotated[int, Within(0, 1 << 50)]
Seed = Annotated[int, Within(0, 2**32 - 1)]
Share = Annotated[float, Within(0, 1)]
"""A fraction, both ends possible."""
ProperShare = Annotated[float, Within(0, 1, below=True)]
"""A fraction short of all."""
Positive = Annotated[float, Within(0, 1e12, above=True)]
NonNegative = Annotated[float, Within(0, 1e12)]
Rate = Annotated[float, Within(0, 100, above=True)]
"""A learning rate."""


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return the dataclass ``kind`` made of ``values``, names and types checked.

    Lists become tuples; whole numbers serve as floats. ``where`` is the section's dotted name.

    Raises:
        UserError: an unknown or missing key, or a value that its annotation does not allow.
    """
    return kind(**checked(kind, values, where))


def checked(
    kind: Callable[..., Any], values: Mapping[str, Any], where: str, *, skip: Sequence[str] = ()
) -> dict[str, Any]:
    """Return ``values`` converted to what ``kind`` declares: a dataclass or any callable.

    Args:
        skip: parameters of ``kind`` that are no keys of the configuration.

    Raises:
        UserError: as ``from_mapping``.
    """
    if not isinstance(values, Mapping):
        raise UserError(_no_section(kind, values, where, skip))
    hints, needed = declared(kind, skip=skip)
    found = {}
    for key, value in values.items():
        if key not in hints:
            if _takes_any(kind):
                found[key] = value
                continue
            told = where or "the configuration"
            raise UserError(f"no key '{shown(key)}' in {told}{nearest(str(key), hints)}")
        found[key] = converted(value, hints[key], f"{where}.{key}" if where else key)
    for key in needed:
        if key not in found:
            name = f"{where}.{key}" if where else key
            raise UserError(f"{name} is missing: {expected(hints[key])} is expected")
    return found


def declared(
    kind: Callable[..., Any], *, skip: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return key -> annotation of ``kind``, and the keys that have no default."""
    if is_dataclass(kind):
        hints = _hints(kind)
        found = {f.name: hints[f.name] for f in fields(kind) if f.init and f.name not in skip}
        needed = [
            f.name
            for f in fields(kind)
            if f.name in found and f.default is MISSING and f.default_factory is MISSING
        ]
        return found, needed
    function = kind.__init__ if isinstance(kind, type) else kind  # type: ignore[misc]
    hints = _hints(function)
    plain = {
        name: item
        for name, item in inspect.signature(kind).parameters.items()
        if name not in skip and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
    }
    needed = [name for name, item in plain.items() if item.default is item.empty]
    return {name: hints.get(name, Any) for name in plain}, needed


@cache
def _hints(kind: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations; reading them again for every section took most of a composition."""
    return get_type_hints(kind, include_extras=True)


def _takes_any(kind: Callable[..., Any]) -> bool:
    if is_dataclass(kind):
        return False
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(kind).parameters.values())


def _no_section(kind: Callable[..., Any], value: Any, where: str, skip: Sequence[str] = ()) -> str:
    keys = list(declared(kind, skip=skip)[0])
    example = f", e.g. {where}.{keys[0]}=" if keys else ""
    return f"{where}={shown(value)}: a section of keys is expected{example}"


def converted(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` as ``hint`` wants it.

    Raises:
        UserError: it does not fit; the message names the key, the value and what is expected.
    """
    origin = get_origin(hint)
    if hint is Any or (hint is type(None) and value is None):
        return value
    if origin in (Union, types.UnionType):
        return _of_union(value, get_args(hint), where)
    if origin is Literal:
        return _of_literal(value, hint, where)
    if origin in _SECTIONS:
        return _of_dict(value, hint, where)
    if origin in _LISTS:
        return _of_list(value, hint, where)
    if is_dataclass(hint):
        section = value if isinstance(value, Mapping) else None
        if section is None:
            raise UserError(_no_section(cast(type[Any], hint), value, where))
        return from_mapping(cast(type[Any], hint), section, where)
    return _of_scalar(value, hint, where)


def _of_union(value: Any, hints: Sequence[Any], where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    rest = [hint for hint in hints if hint is not type(None)]
    for hint in rest:
        if _is_section(hint) and isinstance(value, Mapping):
            return converted(value, hint, where)
    for hint in rest:
        try:
            return converted(value, hint, where)
        except UserError:
            continue
    if len(rest) == 1:  # its own message may point deeper, into a list
        return converted(value, rest[0], where)
    raise _unfit(value, Union[tuple(hints)], where)  # noqa: UP007


def _is_section(hint: Any) -> bool:
    return is_dataclass(hint) or get_origin(hint) in _SECTIONS


def _of_literal(value: Any, hint: Any, where: str) -> Any:
    for choice in get_args(hint):
        if type(value) is type(choice) and value == choice:
            return value
    known = [str(choice) for choice in get_args(hint)]
    raise UserError(
        f"{where}={shown(value)}: choose one of {', '.join(known)}{nearest(str(value), known)}"
    )


def _of_dict(value: Any, hint: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _unfit(value, hint, where)
    _, inner = get_args(hint)
    return {
        str(_text(key, where)): converted(item, inner, f"{where}.{key}")
        for key, item in value.items()
    }


def _of_list(value: Any, hint: Any, where: str) -> tuple[Any, ...]:
    inner = get_args(hint)
    if not isinstance(value, list | tuple):
        raise _unfit(value, hint, where)
    if get_origin(hint) is tuple and inner[-1] is not Ellipsis and len(inner) != len(value):
        raise _unfit(value, hint, where)
    kinds = inner if len(inner) == len(value) and inner[-1] is not Ellipsis else inner[:1]
    each = kinds if len(kinds) == len(value) else [kinds[0]] * len(value)
    return tuple(converted(item, kind, where) for item, kind in zip(value, each, strict=True))


def _of_scalar(value: Any, hint: Any, where: str) -> Any:
    bounds = Within()
    plain = hint
    if get_origin(hint) is Annotated:
        plain, *notes = get_args(hint)
        bounds = next((note for note in notes if isinstance(note, Within)), bounds)
    if plain is str:
        return _text(value, where)
    if plain is bool:
        if isinstance(value, bool):
            return value
        raise _unfit(value, hint, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unfit(value, hint, where)
    if plain is int and isinstance(value, float):
        raise _unfit(value, hint, where)
    if abs(value) > 1e300 or not math.isfinite(value) or not bounds.holds(value):
        raise _unfit(value, hint, where)
    if plain is int and abs(value) >= 2**63:
        raise _unfit(value, hint, where)
    return float(value) if plain is float else value


def _text(value: Any, where: str) -> str:
    """Return text that can be shown and stored: no control characters, no lone surrogates."""
    if not isinstance(value, str):
        raise _unfit(value, str, where)
    if len(value) > _TEXT_LIMIT:
        raise UserError(f"{where}={shown(value)}: text of {len(value)} characters is too long")
    if any(0xD800 <= ord(c) < 0xE000 for c in value):
        raise UserError(f"{where}={shown(value)}: its bytes are no UTF-8 text")
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in value):
        raise UserError(f"{where}={shown(value)}: control characters are not allowed")
    return value


def _unfit(value: Any, hint: Any, where: str) -> UserError:
    return UserError(f"{where}={shown(value)}: {expected(hint)} is expected")


def shown(value: Any, longest: int = _LONGEST) -> str:
    """Return a value as it is typed, cut and escaped so that a message stays one harmless line."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, int) and abs(value) > 10**40:
        text = "a number of more than 40 digits"
    elif isinstance(value, list | tuple):
        text = "[" + ",".join(shown(item) for item in value[:8]) + "]"
    elif isinstance(value, Mapping):
        text = "{" + ",".join(f"{key}:{shown(item)}" for key, item in [*value.items()][:4]) + "}"
    else:
        text = str(value)
    escaped = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return escaped if len(escaped) <= longest else escaped[: longest - 3] + "..."


def expected(hint: Any) -> str:
    """Return in words what an annotation allows."""
    origin = get_origin(hint)
    if hint is Any:
        return "anything"
    if origin in (Union, types.UnionType):
        parts = [expected(item) for item in get_args(hint) if item is not type(None)]
        parts += ["null"] if type(None) in get_args(hint) else []
        return ", or ".join(parts)
    if origin is Literal:
        return " or ".join(str(choice) for choice in get_args(hint))
    if origin in _LISTS:
        inner = get_args(hint)
        fixed = origin is tuple and inner[-1] is not Ellipsis
        return f"a list of {f'{len(inner)} times ' if fixed else ''}{expected(inner[0])}"
    if origin in _SECTIONS or is_dataclass(hint):
        return "a section of keys"
    bounds = Within()
    if origin is Annotated:
        hint, *notes = get_args(hint)
        bounds = next((note for note in notes if isinstance(note, Within)), bounds)
    words = {
        bool: "true or false",
        str: "text",
        type(None): "null",
        int: "a whole number",
        float: "a number",
    }
    return bounds.told(words[hint]) if hint in (int, float) else words.get(hint, str(hint))


def hint_at(kind: Callable[..., Any], path: Sequence[str], *, skip: Sequence[str] = ()) -> Any:
    """Return the annotation of a dotted key below ``kind``; None where it is not declared."""
    hint: Any = declared(kind, skip=skip)[0].get(path[0]) if path else None
    for part in path[1:]:
        section = next((each for each in options_of(hint) if is_dataclass(each)), None)
        if section is None:
            mapping = next(
                (each for each in options_of(hint) if get_origin(each) in _SECTIONS), None
            )
            hint = get_args(mapping)[1] if mapping is not None else None
            continue
        hint = declared(cast(type[Any], section))[0].get(part)
    return hint


def options_of(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def takes_text(hint: Any) -> bool:
    """Whether a bare word given for this annotation may be free text (a name or a path)."""
    return any(
        each is str or (get_origin(each) is Annotated and get_args(each)[0] is str)
        for each in options_of(hint)
    )


def takes_list(hint: Any) -> bool:
    """Whether a list may be given for this annotation."""
    return any(get_origin(each) in _LISTS for each in options_of(hint))


def item_of(hint: Any) -> Any:
    """Return the annotation of a list's items; None where no list is allowed."""
    lists = [each for each in options_of(hint) if get_origin(each) in _LISTS]
    return get_args(lists[0])[0] if lists else None


def scalars_of(hint: Any) -> set[type]:
    """Return which of bool, int and float may be given for this annotation."""
    plain = [get_args(e)[0] if get_origin(e) is Annotated else e for e in options_of(hint)]
    found = {each for each in plain if each in (bool, int, float)}
    return found | ({int} if float in found else set())
