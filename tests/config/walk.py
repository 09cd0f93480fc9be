"""Every key of every group, each given values that it cannot mean."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from adbench.config.compose import compose_config, parse_overrides, unknown_key
from adbench.config.locate import options
from adbench.config.schema import settings
from adbench.config.words import as_typed, needs_care
from adbench.data.layouts import get_layout
from adbench.errors import UserError

VALUES = (
    *["x", "-1", "0", "1.5", "nan", "inf", "-inf", "1e400", "99999999999999999999", "null"],
    *["true", "[a]", "[]", "[[1]]", "{a:1}", "", "'", "${nothing}", "a b", "../..", "a=b", "1e9"],
)
# What a default of each type must never become, whatever the key.
NEVER: dict[type, tuple[str, ...]] = {
    bool: ("x", "-1", "0", "1.5", "nan", "[a]", "[]", "{a:1}", "", "a b", "null"),
    int: ("x", "nan", "inf", "-inf", "1e400", "true", "[a]", "{a:1}", "", "a b"),
    float: ("x", "nan", "inf", "-inf", "1e400", "true", "[a]", "{a:1}", "", "a b"),
    list: ("{a:1}", "true", "[[1]]"),
    dict: ("x", "-1", "0", "1.5", "true", "[a]", "a b", ""),
}
# A stage's name goes here beside true and false; which stages there are, the method knows.
ALSO_TEXT = ("force",)


@dataclass(frozen=True)
class Case:
    """One input: the choices of groups, the key, the value as typed, the default it replaces."""

    choices: tuple[str, ...]
    key: str
    value: str
    default: Any

    @property
    def word(self) -> str:
        return f"{self.key}={self.value}"

    @property
    def must_be_refused(self) -> bool:
        if self.key in ALSO_TEXT or (
            isinstance(self.default, list) and self.key.startswith("dataset.options.")
        ):
            return False  # there a folder or a subset may have any name
        return self.value in NEVER.get(type(self.default), ())


def nodes(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of sections and leaves."""
    for key, value in tree.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from nodes(value, f"{prefix}{key}.")


@cache
def bases() -> list[tuple[tuple[str, ...], dict[str, Any], str]]:
    """Return (choices, configuration, section that is new in it); composed once, never changed."""
    return list(_bases())


def _bases() -> Iterator[tuple[tuple[str, ...], dict[str, Any], str]]:
    yield (), compose_config("train", []), ""
    for group in ("model", "dataset", "synthesis", "diffusion", "backbone", "hardware", "logger"):
        section = "dataset.options." if group == "dataset" else f"{group}."
        for name in options(group):
            # a pool has no default: the walk over its keys begins with one
            choice = (f"{group}={name}", *(["synthesis.root=pool"] if name == "pool" else []))
            yield choice, compose_config("train", choice), section


def cases() -> Iterator[Case]:
    """Yield every key of every option once, with every value, and with a misspelt name."""
    seen = set()
    for choices, config, section in bases():
        for key, default in nodes(config):
            name = (key, choices if key.startswith(section) else ())
            if not key.startswith(section) or name in seen or key.endswith("_target_"):
                continue
            seen.add(name)
            for value in VALUES:
                yield Case(choices, key, value, default)
            yield Case(choices, f"{key}q", "1", None)


def answer(case: Case, config: dict[str, Any]) -> str | None:
    """Return the refusal of one input, or None where it is accepted; without Hydra's composing.

    Raises:
        Exception: any but UserError is a fault.
    """
    try:
        word = as_typed(case.word, config) if needs_care(case.word) else case.word
        (override,) = parse_overrides([word])
        wrong = unknown_key(case.key, config)
        if wrong:
            raise UserError(wrong)
        made = copy.deepcopy(config)
        *path, last = case.key.split(".")
        node = made
        for part in path:
            node = node[part]
        node[last] = override.value()
        found = settings(made)
        get_layout(found.dataset.layout, **found.dataset.options)
    except UserError as error:
        return str(error)
    return None


def names_culprit(case: Case, told: str) -> bool:
    """Whether a refusal names the key, its last part or what was typed."""
    parts = [case.key, case.key.split(".")[-1], case.key[:-1].split(".")[-1]]
    return any(part and part in told for part in [*parts, case.word])
