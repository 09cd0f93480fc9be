"""``adbench test run=FOLDER``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.config.schema import ThresholdKeys, settings
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.runs.files import WAY_OUT

if TYPE_CHECKING:
    from adbench.runs.folder import RunFolder

HELP = """usage: adbench test run=FOLDER [dataset=NAME dataset.KEY=... metrics.KEY=...] [threads=N]

Tests a finished run again. On its own data the figures repeat exactly (exit code 1 where they
do not); with dataset=, dataset.root=, dataset.category= or another key the results go to
FOLDER/tests/DATASET-CATEGORY, with -SUBSET where dataset.options.subset= names one. Pictures
without labels are scored and decided.

Decisions are by the run's own threshold. threshold.false_alarm_rate=0.001 takes another one from
the same held-out normals, threshold.calibrate=FOLDER one from a folder of normal pictures."""


class Retest(NamedTuple):
    """What testing a run again gave.

    Attributes:
        target: the folder with the results.
        document: as metrics.json.
        changed: figures that differ from the stored ones, where they had to repeat.
    """

    target: Path
    document: dict[str, Any]
    changed: list[str]


def run(words: Sequence[str]) -> int:
    """Test a run; the last line on stdout is the folder with the results."""
    from adbench.cli.train import show_metrics, show_threshold

    plain = "plain=true" in words
    target, document, changed = retested(words, say)
    found = {document["category"]: document}
    show_metrics(found, plain=plain)
    show_threshold(found)
    if changed:
        say(f"adbench: figures differ from the stored ones: {', '.join(changed)}")
    print(target)
    return 1 if changed else 0


def retested(words: Sequence[str], say: Callable[[str], None]) -> Retest:
    """Test the run that ``run=`` names, as the other words ask.

    Raises:
        UserError: no finished run, or the request cannot be carried out.
    """
    arguments = parsed_arguments(words)
    given = _given(arguments.overrides)
    from adbench.runs.folder import open_run

    folder, config = open_run(given.pop("run"))
    _check_stored(folder, config)
    if not folder.finished:
        status = folder.record.get("status", "not begun")
        raise UserError(f"{folder.path} is not a finished run ({status}); train it first")
    plain = given.pop("plain", False)
    if "threads" in given:
        config["hardware"]["threads"] = given.pop("threads")
    threshold = {k.partition(".")[2]: given.pop(k) for k in list(given) if k.startswith("thresh")}
    elsewhere = bool(given)
    if "dataset" in given:
        config["dataset"] = _dataset(config["dataset"], str(given.pop("dataset")))
    for key, value in given.items():
        _set(config, key, value)
    from_mapping(ThresholdKeys, threshold, "threshold")
    config["plain"] = plain
    settings(config)
    return _tested(folder, config, threshold, say, elsewhere=elsewhere)


def _check_stored(folder: RunFolder, config: dict[str, Any]) -> None:
    """Refuse a configuration that somebody damaged, by the name of its file."""
    try:
        settings(config)
    except UserError as error:
        raise UserError(f"{folder / 'config.yaml'}: {error}; {WAY_OUT}") from error


def _tested(
    folder: RunFolder,
    config: dict[str, Any],
    threshold: dict[str, Any],
    say: Callable[[str], None],
    *,
    elsewhere: bool,
) -> Retest:
    from adbench.runs.summary import read_metrics
    from adbench.training.testing import repeated_test

    target, document = repeated_test(folder, config, say, elsewhere=elsewhere, threshold=threshold)
    again = not (elsewhere or threshold)
    changed = differing(read_metrics(folder.path), document) if again else []
    return Retest(target, document, changed)


_TAKES = ("run", "dataset", "metrics", "threads", "plain", "images", "threshold")


def _given(words: Sequence[str]) -> dict[str, Any]:
    """Return the verb's keys with their values, names and paths as they were typed."""
    from adbench.config.compose import parse_overrides, typed_words

    named = [word for word in words if word.startswith("run=")]
    if not named:
        raise UserError("which run? adbench test run=FOLDER")
    rest = [word for word in words if not word.startswith("run=")]
    given: dict[str, Any] = {"run": named[-1].partition("=")[2]}
    for override in parse_overrides(typed_words("train", rest)):
        key = override.key_or_group
        if key.split(".")[0] not in _TAKES:
            raise UserError(f"'{key}' is fixed by training; test takes {HELP.splitlines()[0][7:]}")
        given[key] = override.value()
    return given


# How a run brings pictures to its detector: kept whatever data set it is tested on.
_OF_THE_RUN = ("category", "image_size", "fit", "bits", "corrupt_background", "multiclass")


def _dataset(own: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return another data set's section with the run's category and way of reading pictures."""
    from adbench.config.compose import compose_config

    section = compose_config("train", [f"dataset={name}"])["dataset"]
    return {**section, **{key: own[key] for key in _OF_THE_RUN if key in own}}


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
