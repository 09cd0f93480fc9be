"""Words of the command line that are names or paths, kept as they were typed.

Hydra's grammar reads ``run.name=0012`` as the number 12 and stops at the ``=`` in a path. A key
that is declared as text takes what the shell passed, character by character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from adbench.config.schema import ModelHead, Settings
from adbench.config.targets import record_of
from adbench.config.typed import hint_at, item_of, scalars_of, takes_list, takes_text
from adbench.errors import UserError

_WORD = re.compile(r"(?P<key>\+{0,2}[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)


def needs_care(word: str) -> bool:
    """Whether Hydra could read the value as something else than the text it is."""
    found = _WORD.fullmatch(word)
    return found is not None and not _is_plain(found["value"])


def _is_plain(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z/.~][\w/.~+-]*", text)) and _read(text) is str


def as_typed(
    word: str,
    base: Mapping[str, Any],
    records: Sequence[Callable[..., Any]] = (Settings,),
    *,
    several: bool = False,
) -> str:
    """Return an override whose value is quoted for Hydra where its key is declared as text.

    Args:
        word: as the shell passed it.
        base: the configuration without such words; its groups tell what declares the key.
        records: declare the keys at the root.
        several: commas separate values (a sweep); a comma inside one is then quoted by hand.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        return word
    hint = _hint(found["key"].lstrip("+").split("."), base, records)
    if hint is None or not takes_text(hint):
        return word
    parts = parted(found["value"])
    if not several and not takes_list(hint):
        parts = [found["value"]]
    return f"{found['key']}={','.join(_protected(part, hint) for part in parts)}"


def _protected(text: str, hint: Any) -> str:
    """Return the text quoted, unless it is nothing, null, quoted already, or has interpolations.

    What reads as a truth value or a number stays one where ``hint`` allows it; items of a list
    are protected one by one.
    """
    if text in ("", "null", "[]") or "${" in text:
        return text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text
    if takes_list(hint) and text.startswith("[") and text.endswith("]"):
        inner = item_of(hint)
        return f"[{','.join(_protected(item.strip(), inner) for item in parted(text[1:-1]))}]"
    return text if _read(text) in scalars_of(hint) else quoted(text)


def _read(text: str) -> type:
    """Return the type that YAML gives a bare word."""
    try:
        return type(yaml.safe_load(text))
    except yaml.YAMLError:
        return str


def quoted(text: str) -> str:
    """Return the text as a quoted string of Hydra's grammar.

    Backslashes are themselves there but before a quote, where each needs another.
    """
    escaped = re.sub(r"(\\*)'", lambda run: run[1] * 2 + "\\'", text)
    last = re.search(r"\\*$", escaped)
    return f"'{escaped}{last[0] if last else ''}'"


def parted(text: str) -> list[str]:
    """Return the parts between commas that stand in no quotes or brackets."""
    parts, start, depth, quote = [], 0, 0, ""
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote and text[place - 1] != "\\" else quote
        elif character in "'\"":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def _hint(
    path: Sequence[str], base: Mapping[str, Any], records: Sequence[Callable[..., Any]]
) -> Any:
    """Return the annotation of a key; None where nothing declares it."""
    if path[:2] == ["dataset", "options"] and len(path) > 2:
        return _by_value(base, path)
    if path[0] in ("model", "synthesis", "diffusion") and len(path) > 1 and Settings in records:
        section = base.get(path[0])
        target = section.get("_target_") if isinstance(section, Mapping) else None
        try:
            declared = hint_at(record_of(target), path[1:])
        except UserError:  # told when the section is checked
            declared = None
        if declared is None and path[0] == "model":
            declared = hint_at(ModelHead, path[1:])
        return _by_value(base, path) if declared is None else declared
    hints = (hint_at(record, path) for record in records)
    return next((hint for hint in hints if hint is not None), None)


def _by_value(base: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return what a key's present value allows, where no record of ours declares it."""
    node: Any = base
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    return str | Sequence[str] | None if node is None or isinstance(node, str | list) else None


def example(key: str, value: str) -> str:
    """Return ``key=value`` as a shell takes it and Hydra reads it as one text."""
    import shlex

    return shlex.quote(f"{key}={quoted(value)}")
