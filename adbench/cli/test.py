"""``adbench test run=FOLDER``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.errors import UserError

HELP = """usage: adbench test run=FOLDER [dataset.KEY=... metrics.KEY=... threads=N] [plain=true]

Tests a finished run again. On its own data the figures repeat exactly (exit code 1 where they
do not); with dataset.root=, dataset.category= or another key the results go to
FOLDER/tests/DATASET-CATEGORY."""


def run(words: Sequence[str]) -> int:
    """Test a run; the last line on stdout is the folder with the results."""
    arguments = parsed_arguments(words)
    given = _given(arguments.overrides)
    from adbench.cli.train import show_metrics
    from adbench.runs.files import read_json
    from adbench.runs.folder import open_run
    from adbench.training.testing import test

    folder, config = open_run(given.pop("run"))
    if not folder.finished:
        status = folder.record.get("status", "not begun")
        raise UserError(f"{folder.path} is not a finished run ({status}); train it first")
    plain = bool(given.pop("plain", False))
    threads = given.pop("threads", None)
    if threads is not None:
        config["hardware"]["threads"] = threads
    elsewhere = bool(given)
    for key, value in given.items():
        _set(config, key, value)
    target, document = test(folder, config, say, elsewhere=elsewhere)
    show_metrics({document["category"]: document}, plain=plain)
    changed = [] if elsewhere else differing(read_json(folder / "metrics.json"), document)
    if changed:
        print(
            f"adbench: figures differ from the stored ones: {', '.join(changed)}", file=sys.stderr
        )
    print(target)
    return 1 if changed else 0


def _given(overrides: Sequence[str]) -> dict[str, Any]:
    from adbench.config.compose import parse_overrides

    given: dict[str, Any] = {}
    for override in parse_overrides(overrides):
        key = override.key_or_group
        if key.split(".")[0] not in ("run", "dataset", "metrics", "threads", "plain", "images"):
            raise UserError(f"'{key}' is fixed by training; test takes {HELP.splitlines()[0][7:]}")
        given[key] = override.value()
    if "run" not in given:
        raise UserError("which run? adbench test run=FOLDER")
    if "dataset" in given:
        raise UserError("another data set is named by its keys: dataset.root=, dataset.category=")
    return given


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    from adbench.config.compose import unknown_key

    wrong = unknown_key(key, config)
    if wrong:
        raise UserError(wrong)
    *path, last = key.split(".")
    node: Any = config
    for part in path:
        node = node[part]
    node[last] = value


def differing(stored: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return dotted names of the figures that are not exactly equal, seconds apart."""
    changed: list[str] = []
    for key in sorted({*stored, *found} - {"seconds", "validation", "oracle"}):
        one, other = stored.get(key), found.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            changed += differing(one, other, f"{prefix}{key}.")
        elif one != other:
            changed.append(f"{prefix}{key}")
    return changed
