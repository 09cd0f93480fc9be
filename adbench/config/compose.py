"""Composes a verb's configuration from conf/ and the command line; says what is wrong with it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from adbench.config.hydra_words import refuse_hydras_own
from adbench.config.locate import GROUPS, SWEEPS, conf_folder, nested_options, options
from adbench.config.schema import Settings
from adbench.config.typed import hint_at, shown, takes_list
from adbench.config.words import as_typed, example, needs_care, quoted
from adbench.errors import UserError, nearest

# What composing raises on a bad request or a user's bad file; recursion, on values nested too
# deeply.
_HYDRAS = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    RecursionError,
    ValueError,
    OverflowError,
)


def compose_config(
    primary: str,
    overrides: Sequence[str],
    config_dir: Path | None = None,
    records: Sequence[Callable[..., Any]] = (Settings,),
) -> dict[str, Any]:
    """Return the resolved configuration of ``primary`` as plain dicts, lists and scalars.

    Args:
        primary: name of a file at the root of conf/, e.g. ``train``.
        overrides: as the shell passed them; values of text keys need no quotes.
        config_dir: a user's folder with further group files.
        records: declare the keys at the root of ``primary``.

    Raises:
        UserError: an override cannot be parsed, or names an unknown group, option or key.
    """
    refuse_hydras_own(overrides)
    words = typed_words(primary, overrides, config_dir, records)
    parsed = parse_overrides(words)
    _refuse_sweeps(parsed, overrides)
    _refuse_unknown_options(parsed, config_dir)
    with _composer(config_dir) as composed:
        try:
            return composed(primary, words)
        except _HYDRAS as error:
            choices = [o.input_line for o in parsed if _is_group(o)]
            known = composed(primary, choices, resolve=False)
            raise _explained(error, parsed, known) from error


def typed_words(
    primary: str,
    overrides: Sequence[str],
    config_dir: Path | None = None,
    records: Sequence[Callable[..., Any]] = (Settings,),
    *,
    several: bool = False,
) -> list[str]:
    """Return overrides in which values of text keys are quoted, so that Hydra leaves them alone.

    ``several``: commas separate values, as in a sweep.
    """
    refuse_hydras_own(overrides)
    if not any(map(needs_care, overrides)):
        return list(overrides)
    choices = [word for word in overrides if _chooses(word) and not needs_care(word)]
    _refuse_unknown_options(parse_overrides(choices), config_dir)
    with _composer(config_dir) as composed:
        base = composed(primary, choices, resolve=False)
    return [
        as_typed(word, base, records, several=several) if needs_care(word) else word
        for word in overrides
    ]


def _chooses(word: str) -> bool:
    return word.split("=")[0] in (*GROUPS, *SWEEPS) and "=" in word


@contextlib.contextmanager
def _composer(config_dir: Path | None) -> Iterator[Callable[..., dict[str, Any]]]:
    """Yield a function that composes a primary file with overrides into plain values."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    searched = (
        [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
    )

    def composed(primary: str, words: Sequence[str], *, resolve: bool = True) -> dict[str, Any]:
        config = compose(primary, overrides=[*searched, *words])
        return dict(OmegaConf.to_container(config, resolve=resolve))  # type: ignore[arg-type]

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            yield composed
    except _HYDRAS as error:
        raise UserError(_one_line(error)) from error


def parse_overrides(overrides: Sequence[str]) -> list[Any]:
    """Return Hydra's Override objects.

    Raises:
        UserError: one cannot be parsed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create()
    found = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except _HYDRAS as error:
            raise UserError(_unread(text, error)) from error
        if not override.key_or_group:
            raise UserError(f"cannot read '{text}': write key=value (the key is missing)")
        found.append(override)
    return found


def _is_group(override: Any) -> bool:
    return override.key_or_group in (*GROUPS, *SWEEPS)


def _unread(text: str, error: Exception) -> str:
    """Return what to type instead of an override that Hydra cannot parse."""
    key, sign, value = text.partition("=")
    why = _one_line(error)
    if sign and len(value) < 200 and re.fullmatch(r"\+{0,2}[\w.@/]+", key):
        return f"cannot read {shown(text)}; as one text it is written {example(key, value)} ({why})"
    return f"cannot read {shown(text)}: write key=value ({why})"


def _refuse_sweeps(parsed: Sequence[Any], overrides: Sequence[str]) -> None:
    for override, typed in zip(parsed, overrides, strict=True):
        if override.is_delete():
            raise UserError(f"{shown(typed)}: keys are not removed; write key=value")
        if override.is_sweep_override():
            key, _, value = typed.partition("=")
            hint = hint_at(Settings, key.lstrip("+").split("."))
            listed = f"; one list is written {key}=[{value}]" if takes_list(hint) else ""
            raise UserError(
                f"{shown(typed)} has several values: use `adbench sweep` or --multirun{listed}"
            )


def _refuse_unknown_options(parsed: Sequence[Any], config_dir: Path | None) -> None:
    for override in parsed:
        if not _is_group(override) or override.is_delete():
            continue
        group, value = override.key_or_group, override.value()
        known = [*options(group, config_dir), *nested_options(group)]
        if value not in known and not (value is None and group in ("sweep", "experiment")):
            raise UserError(
                f"no {group} '{shown(value)}'{nearest(str(value), known)} "
                f"(known: {', '.join(known)})"
            )


def _explained(error: Exception, parsed: Sequence[Any], known: Mapping[str, Any]) -> UserError:
    for override in parsed:
        if _is_group(override) or override.is_add() or override.is_force_add():
            continue
        wrong = unknown_key(override.key_or_group, known)
        if wrong:
            return UserError(wrong)
    return UserError(_one_line(error))


def _one_line(error: Exception) -> str:
    if not str(error) and isinstance(error.__cause__, Exception):  # Hydra wraps others wordlessly
        error = error.__cause__
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        where = error.problem_mark
        return shown(f"{where.name}, line {where.line + 1}: {error.problem}", longest=300)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = re.sub(r"\s+", " ", " ".join(lines[:2])) or type(error).__name__
    return shown(told, longest=300)


def unknown_key(key: str, known: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the dotted ``key`` in the tree ``known``; None when it is there."""
    node: Any = known
    path: list[str] = []
    for part in key.split("."):
        if not isinstance(node, Mapping):
            return f"'{'.'.join(path)}' holds a value, it has no key '{part}'"
        if part not in node:
            where = ".".join(path) or "the configuration"
            full = nearest(key, _leaves(known)) if not path else ""
            hint = nearest(part, [str(k) for k in node]) or full
            return f"no key '{part}' in {where}{hint}"
        node = node[part]
        path.append(part)
    return None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += _leaves(value, f"{name}.") if isinstance(value, Mapping) and value else [name]
    return found
