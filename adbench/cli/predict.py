"""``adbench predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.config.plain import plain_keys
from adbench.deploy.settings import PredictKeys
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.deploy.decision import Rule
    from adbench.deploy.inspector import Inspector

HELP = """usage: adbench predict run=FOLDER source=PATH [key=value ...]
       adbench predict model=FILE.onnx source=PATH       an export; torch is not needed
       adbench predict run=FOLDER calibrate=FOLDER       only the threshold, from normal pictures

Judges every picture of a source and writes scores.csv; the last line is the folder it lies in.
The same command goes on where it stopped: a picture that has its line is not judged again.

  source=PATH                a picture, a folder with all below it, a glob, a video, a camera number
  watch=true                 wait for pictures that appear in the folder; settle=1 idle=SECONDS
  out=FOLDER                 where; else predictions/ below the run
  stdout=true                one line of JSON a picture: verdict ok | ng | error, score, regions
  overlays=ng|all            heat on the photograph; maps=ng|all: raw maps as TIFF
  threshold=VALUE            in raw score units; else the run's own
  false_alarm_rate=0.001     another threshold from the run's held-out normals
  calibrate=FOLDER           one from a folder of normal pictures; write_back=true stores it
  batch_size=8 threads=2 device=auto max_pixels=100000000 limit=N every=N (frames) force=true

Exit code 1: some pictures could not be judged; they have the verdict error. conf/predict.yaml has
every key."""


def run(words: Sequence[str]) -> int:
    """Judge; the last line on stdout is the folder of the results, unless stdout=true."""
    keys = plain_keys(PredictKeys, parsed_arguments(words).overrides, "predict")
    place, inspector = _inspector(keys)
    inspector = replace(inspector, rule=_rule(inspector, keys, place))
    say(f"{inspector.model} ({inspector.engine.name}): {inspector.rule.told()}")
    if keys.write_back:
        _write_back(place, inspector.rule)
    if keys.source is None:
        return 0
    from adbench.deploy.predict import default_out, predict

    if keys.watch and not Path(keys.source).expanduser().is_dir():
        raise UserError(f"source={keys.source} is no folder: watch=true watches one")
    below = place if place.is_dir() else place.parent
    out = Path(keys.out).expanduser() if keys.out else default_out(below, keys.source)
    found = predict(inspector, keys, out, say, lambda line: print(line, flush=True))
    counts = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    rate = found.judged / found.seconds if found.seconds else 0.0
    say(f"{counts}; {found.judged} judged now at {rate:.1f} images/s, {found.known} before")
    (say if keys.stdout else print)(str(out))
    return 1 if found.counts["error"] else 0


def _inspector(keys: PredictKeys) -> tuple[Path, Inspector]:
    """Return the run folder or the exported file, and what judges."""
    if keys.model is not None:
        from adbench.deploy.runtime import inspector_of_export

        place = Path(keys.model).expanduser()
        return place, inspector_of_export(place, threads=keys.threads)
    from adbench.runs.folder import open_run

    place = open_run(str(keys.run))[0].path
    from adbench.deploy.torch_engine import inspector_of_run

    return place, inspector_of_run(place, keys.device, keys.threads)


def _rule(inspector: Inspector, keys: PredictKeys, place: Path) -> Rule:
    from adbench.deploy.calibration import RATE, at_rate, calibrated

    if keys.threshold is not None:
        return inspector.rule.at_value(keys.threshold)
    if keys.calibrate is not None:
        folder = Path(keys.calibrate).expanduser()
        if keys.run is not None:
            from adbench.deploy.calibration import refuse_trained_on

            refuse_trained_on(place, folder)
        return calibrated(
            inspector,
            folder,
            keys.false_alarm_rate or RATE,
            max_pixels=keys.max_pixels,
            batch_size=keys.batch_size,
            say=say,
        )
    if keys.false_alarm_rate is not None:
        return at_rate(inspector.rule, keys.false_alarm_rate)
    return inspector.rule


def _write_back(place: Path, rule: Rule) -> None:
    from adbench.deploy.calibration import stored_threshold_path, write_rule

    path = stored_threshold_path(place)
    write_rule(path, rule)
    say(f"the threshold is stored in {path}; what it was before lies beside it")
