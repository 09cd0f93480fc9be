"""Composes a verb's configuration from conf/ and the command line; says what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adbench.config.locate import GROUPS, conf_folder, options
from adbench.errors import UserError, nearest


def compose_config(
    primary: str, overrides: Sequence[str], config_dir: Path | None = None
) -> dict[str, Any]:
    """Return the resolved configuration of ``primary`` as plain dicts, lists and scalars.

    Args:
        primary: name of a file at the root of conf/, e.g. ``train``.
        overrides: Hydra overrides, as typed.
        config_dir: a user's folder with further group files.

    Raises:
        UserError: an override cannot be parsed, or names an unknown group, option or key.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parsed = parse_overrides(overrides)
    _refuse_sweeps(parsed)
    _refuse_unknown_options(parsed, config_dir)
    searched = [f"hydra.searchpath=[file://{config_dir.resolve()}]"] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            try:
                config = compose(primary, overrides=[*searched, *overrides])
                return dict(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
            except (HydraException, OmegaConfBaseException) as error:
                choices = [o.input_line for o in parsed if _is_group(o)]
                base = compose(primary, overrides=[*searched, *choices])
                known = OmegaConf.to_container(base, resolve=False)
                raise _explained(error, parsed, known) from error  # type: ignore[arg-type]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error


def parse_overrides(overrides: Sequence[str]) -> list[Any]:
    """Return Hydra's Override objects.

    Raises:
        UserError: one cannot be parsed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    found = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            why = str(error).splitlines()[0]
            raise UserError(f"cannot read '{text}': write key=value ({why})") from error
        if not override.key_or_group:
            raise UserError(f"cannot read '{text}': write key=value (the key is missing)")
        found.append(override)
    return found


def _is_group(override: Any) -> bool:
    return override.key_or_group in (*GROUPS, "sweep")


def _refuse_sweeps(parsed: Sequence[Any]) -> None:
    for override in parsed:
        if override.is_sweep_override():
            raise UserError(
                f"'{override.input_line}' has several values: use `adbench sweep` or --multirun "
                f"(one value that is a list is written {override.key_or_group}=[a,b])"
            )


def _refuse_unknown_options(parsed: Sequence[Any], config_dir: Path | None) -> None:
    for override in parsed:
        if not _is_group(override) or override.is_delete():
            continue
        group, value = override.key_or_group, override.value()
        known = options(group, config_dir)
        if value is not None and value not in known:
            raise UserError(
                f"no {group} '{value}'{nearest(str(value), known)} (known: {', '.join(known)})"
            )


def _explained(error: Exception, parsed: Sequence[Any], known: Mapping[str, Any]) -> UserError:
    for override in parsed:
        if _is_group(override) or override.is_add() or override.is_force_add():
            continue
        wrong = unknown_key(override.key_or_group, known)
        if wrong:
            return UserError(wrong)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return UserError(re.sub(r"\s+", " ", " ".join(lines[:2])) or type(error).__name__)


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
