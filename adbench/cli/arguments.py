"""What is common to the verbs' arguments: overrides, --config-dir, --multirun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adbench.config.targets import declare_plugins
from adbench.errors import UserError, nearest

_FLAGS = ("--multirun", "-m", "--config-dir", "-cd", "--help", "-h")


@dataclass(frozen=True, slots=True)
class Arguments:
    """A verb's arguments, split.

    Attributes:
        overrides: Hydra overrides as typed.
        config_dir: a user's folder of further group files.
        multirun: ``--multirun`` was given.
    """

    overrides: list[str]
    config_dir: Path | None
    multirun: bool

    def forwarded(self) -> list[str]:
        """Return the flags a cell's own process must get."""
        return ["--config-dir", str(self.config_dir)] if self.config_dir else []


def parsed_arguments(words: Sequence[str]) -> Arguments:
    """Return the arguments of a verb.

    Raises:
        UserError: an unknown flag, or a --config-dir that is not a folder.
    """
    overrides: list[str] = []
    config_dir: Path | None = None
    multirun = False
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in ("--multirun", "-m"):
            multirun = True
        elif name in ("--config-dir", "-cd"):
            config_dir = Path(value or next(rest, ""))
            if not config_dir.is_dir():
                raise UserError(f"--config-dir {config_dir} is not a folder")
        elif word.startswith("-"):
            raise UserError(f"no flag '{word}'{nearest(word, _FLAGS)}; keys are written key=value")
        else:
            overrides.append(word)
    declare_plugins(config_dir)
    return Arguments(overrides, config_dir, multirun)
