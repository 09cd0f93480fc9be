"""Stages: the parts of a run that finish one by one and are not repeated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adbench.errors import UserError, nearest
from adbench.runs.files import folder_beside, read_record, write_json


@dataclass(slots=True)
class StageContext:
    """What a stage's ``run`` receives.

    Attributes:
        folder: where to write the artefact; renamed to ``stages/NAME`` when ``run`` returns.
        scratch: ``stages/.NAME.work``: kept when the stage is interrupted, for its own
            checkpoints; deleted when it finishes.
        stages: folder of the run's finished stages; input ``x`` lies in ``stages / "x"``.
        datamodule: the run's data.
        say: prints one line on the screen and in the log.
    """

    folder: Path
    scratch: Path
    stages: Path
    datamodule: Any
    say: Callable[[str], None] = print


@dataclass(slots=True)
class Stage:
    """One resumable part of a run.

    Attributes:
        name: folder name under ``stages/``.
        run: writes the artefact into ``context.folder``.
        config: plain values the artefact depends on; hashed.
        inputs: names of earlier stages, whose hashes enter this one's.
        files: further input files, hashed by content.
    """

    name: str
    run: Callable[[StageContext], None]
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def stage_hash(
    stage: Stage, done: Mapping[str, str], given: Mapping[str, Any] | None = None
) -> str:
    """Return the hash of what ``stage`` depends on, given the hashes of finished stages.

    ``given``: what all stages of a run depend on, the training pictures above all.
    """
    digest = hashlib.sha256()
    inputs = {name: done[name] for name in stage.inputs}
    own = {"name": stage.name, "config": dict(stage.config), "inputs": inputs}
    document = {**own, "given": dict(given or {})}
    digest.update(json.dumps(document, sort_keys=True, default=str).encode())
    for path in stage.files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_stages(
    stages: Sequence[Stage],
    folder: Path,
    datamodule: Any,
    *,
    only: str | None = None,
    until: str | None = None,
    force: str | None = None,
    given: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, str]:
    """Run what is not finished, in order, and return name -> hash.

    A stage whose ``stage.json`` holds the hash that still fits is skipped. ``only`` runs one
    stage (its inputs must be finished), ``until`` stops after one, ``force`` repeats one.

    Raises:
        UserError: a name is unknown, or an input of ``only`` is not finished.
    """
    names = [stage.name for stage in stages]
    for wanted in (only, until, force):
        if wanted is not None and wanted not in names:
            known = ", ".join(names) or "none"
            raise UserError(f"no stage '{wanted}' (stages: {known}){nearest(wanted, names)}")
    done: dict[str, str] = {}
    for stage in stages:
        target = folder / stage.name
        value = stage_hash(stage, done, given)
        finished = _finished_hash(target) == value and stage.name != force
        if finished:
            say(f"stage {stage.name}: finished before, kept")
        elif only is not None and stage.name != only:
            if names.index(stage.name) < names.index(only) and stage.name in _inputs(stages, only):
                raise UserError(f"stage '{only}' needs '{stage.name}', which is not finished")
            done[stage.name] = value
            continue
        else:
            _run_one(stage, target, value, datamodule, say)
        done[stage.name] = value
        if stage.name == until:
            break
    return done


def _inputs(stages: Sequence[Stage], name: str) -> set[str]:
    return set(next(stage.inputs for stage in stages if stage.name == name))


def _finished_hash(target: Path) -> str | None:
    card = target / "stage.json"
    try:
        return read_record(card).get("hash") if card.is_file() else None
    except UserError:  # torn: the stage is run again
        return None


def _run_one(
    stage: Stage, target: Path, value: str, datamodule: Any, say: Callable[[str], None]
) -> None:
    import shutil

    say(f"stage {stage.name}: running")
    start = time.perf_counter()
    scratch = target.with_name(f".{stage.name}.{value[:12]}.work")
    scratch.mkdir(parents=True, exist_ok=True)
    with folder_beside(target) as temporary:
        stage.run(StageContext(temporary, scratch, target.parent, datamodule, say))
        seconds = time.perf_counter() - start
        card = {"name": stage.name, "hash": value, "inputs": list(stage.inputs)}
        write_json(temporary / "stage.json", {**card, "seconds": round(seconds, 3)})
    shutil.rmtree(scratch, ignore_errors=True)
    say(f"stage {stage.name}: done in {seconds:.1f} s")
