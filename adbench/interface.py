"""The verbs as functions: what a script or a notebook calls. Frozen by tests/release."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adbench.synthesis.base import Synthesizer

Say = Callable[[str], None]


def train(*words: str, config_dir: str | Path | None = None, say: Say | None = None) -> list[Path]:
    """Train, test and write run folders, exactly as ``adbench train WORDS`` does.

    Args:
        words: overrides as typed on the command line: ``"model=patchcore", "dataset=demo"``.
        config_dir: a folder of further group files, as ``--config-dir``.
        say: called with every line of progress; None: silence.

    Returns:
        The run folders, one per category, each finished.

    Raises:
        UserError: the request cannot be carried out; the message says what can.
    """
    from adbench.config.compose import compose_config
    from adbench.config.targets import declare_plugins
    from adbench.training.session import train as trained

    folder = Path(config_dir) if config_dir is not None else None
    declare_plugins(folder)
    return trained(compose_config("train", list(words), folder), list(words), say or _silence)


def evaluate(run: str | Path, *words: str, say: Say | None = None) -> dict[str, Any]:
    """Test a finished run, on its own data or elsewhere, as ``adbench test run=RUN WORDS`` does.

    Args:
        run: a run folder.
        words: what differs: ``"dataset.root=FOLDER"``, ``"threshold.false_alarm_rate=0.001"``.

    Returns:
        The document of metrics.json: sections ``image``, ``pixel``, ``threshold``, ``counts``, ...

    Raises:
        UserError: no finished run, or the request cannot be carried out.
    """
    from adbench.cli.test import retested

    return retested([f"run={run}", *words], say or _silence).document


def synthesizer(name: str, **keys: Any) -> Synthesizer:
    """Return a synthesizer of the group ``synthesis``, for use on tensors.

    Args:
        name: as in ``synthesis=NAME``.
        keys: what differs from conf/synthesis/NAME.yaml.

    Raises:
        UserError: no such synthesizer, or a key that it does not have.
    """
    from adbench.config.compose import compose_config
    from adbench.errors import UserError
    from adbench.training.build import build_synthesis

    section: Mapping[str, Any] = compose_config("train", [f"synthesis={name}"])["synthesis"]
    built = build_synthesis({**section, **keys})
    if built is None:
        raise UserError(f"synthesis={name} makes no anomalies")
    return built


def _silence(line: str) -> None:
    """Say nothing."""
