"""Which classes a configuration or a run folder may name, decided before anything is imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from adbench.errors import UserError

PLUGINS = "ADBENCH_PLUGINS"  # packages of third parties, separated by commas
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_declared: set[str] = set()


def declare_plugins(config_dir: Path | None) -> None:
    """Trust the packages that the yaml files of a ``--config-dir`` name: _target_, layout.

    Whoever gives that folder on the command line asks for its classes to be run; a run folder
    that somebody else wrote asks nothing.
    """
    if config_dir is None:
        return
    for path in sorted(config_dir.glob("*/*.yaml")):
        named = r"^\s*(?:_target_|layout):\s*(\w+)\.[\w.]+"
        declare_packages(re.findall(named, path.read_text("utf-8"), re.MULTILINE))


def declare_packages(names: Iterable[str]) -> None:
    """Trust packages that the command line itself names."""
    _declared.update(names)


def trusted_packages() -> set[str]:
    """Return adbench, declared plug-ins, and installed packages that announce themselves.

    A wheel announces itself by an entry point of the group ``adbench``.
    """
    named = {name.strip() for name in os.environ.get(PLUGINS, "").split(",") if name.strip()}
    return {"adbench", *_declared, *named, *_announced()}


@cache
def _announced() -> frozenset[str]:
    from importlib.metadata import entry_points

    points = entry_points(group="adbench")
    return frozenset(point.value.split(":")[0].split(".")[0] for point in points)


def check_target(target: Any, where: str, extra: Iterable[str] = ()) -> str:
    """Return ``target`` where it may be imported.

    Raises:
        UserError: it is no dotted name, or belongs to a package that nobody declared.
    """
    if not isinstance(target, str) or not _DOTTED.fullmatch(target):
        raise UserError(f"{where}: '{str(target)[:80]}' is not the dotted name of a class")
    package = target.split(".")[0]
    if package not in trusted_packages() | set(extra):
        raise UserError(
            f"{where}: {target} belongs to neither adbench nor a declared plug-in; if you trust "
            f"it: {PLUGINS}={package} adbench ..."
        )
    return target


def imported(target: Any, kind: type[Any], where: str) -> type[Any]:
    """Return the class that ``target`` names.

    Raises:
        UserError: it may not or cannot be imported, or is no subclass of ``kind``.
    """
    module, _, name = check_target(target, where).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{where}: {target} cannot be imported ({error})") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{where}: {target} is not a {kind.__name__}")
    return found


def record_of(target: Any) -> Callable[..., Any]:
    """Return what declares the keys of the class ``target``: a record, else its constructor.

    The record of ``adbench.methods.glass.module.GlassModule`` is ``GlassKeys`` in the module
    ``adbench.methods.glass.settings``, that of ``adbench.synthesis.las.Las`` is ``LasKeys`` in
    ``adbench.synthesis.settings``: importable without torch. A class without one is imported.

    Raises:
        UserError: the target may not or cannot be imported.
    """
    module, _, name = check_target(target, "_target_").rpartition(".")
    room = module.rpartition(".")[0]
    record = f"{name.removesuffix('Module')}Keys"
    try:
        if importlib.util.find_spec(f"{room}.settings") is not None:
            found = getattr(importlib.import_module(f"{room}.settings"), record, None)
            if found is not None:
                return found  # type: ignore[no-any-return]
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"_target_: {target} cannot be imported ({error})") from error
