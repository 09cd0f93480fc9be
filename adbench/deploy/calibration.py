"""Another threshold for an inspector: from a folder of normal pictures, or at another rate."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from adbench.data.files import shown_path
from adbench.deploy.decision import Rule
from adbench.deploy.inspector import Inspector
from adbench.deploy.sources import pictures_below
from adbench.deploy.stream import Ahead, decoded
from adbench.errors import UserError
from adbench.runs.files import confined, write_json
from adbench.training.threshold import FILE, StoredThreshold

RATE = 0.01  # aimed share of false alarms where nothing else is said: conf/train.yaml's


def calibrated(
    inspector: Inspector,
    folder: Path,
    rate: float,
    *,
    max_pixels: int,
    batch_size: int,
    say: Callable[[str], None],
) -> Rule:
    """Return the rule that a folder of normal pictures gives.

    The threshold of images is the held-out quantile of ``training.threshold``, that of pixels
    mean + 3 standard deviations over all their pixels at the working size.

    Raises:
        UserError: the folder is missing, or holds no readable picture.
    """
    if not folder.is_dir():
        raise UserError(f"calibrate={shown_path(folder)} is not a folder of normal pictures")
    scores: list[float] = []
    moments: list[tuple[float, float]] = []  # mean and mean square of each map, all of one size
    ahead = Ahead(
        pictures_below(folder, folder / "predictions"),
        lambda item: decoded(item, inspector.reading, max_pixels, view=False),
        depth=2 * batch_size,
    )
    for batch in ahead.batches(batch_size):
        for each in batch:
            if each.error is not None:
                say(f"calibrate: left out: {each.error}")
        good = [each.picture for each in batch if each.picture is not None]
        if not good:
            continue
        found, maps = inspector.engine(np.stack([picture.working for picture in good]))
        if not np.isfinite(found).all():
            raise UserError("calibrate=: the detector gave a score that is no number")
        scores += [float(score) for score in found]
        exact = maps.astype(np.float64)
        moments += zip(exact.mean((1, 2)), np.square(exact).mean((1, 2)), strict=True)
    if not scores:
        raise UserError(f"calibrate={shown_path(folder)} holds no readable picture")
    source = f"{len(scores)} pictures of {shown_path(folder.absolute())}"
    mean, square = np.array(moments).mean(0)
    taken = StoredThreshold(
        replace(inspector.rule.stored.threshold, source=source),
        np.array(scores, dtype=np.float64),
        float(mean + 3 * np.sqrt(max(square - mean**2, 0.0))),
    )
    return Rule.of(taken.at(rate, source))


def at_rate(rule: Rule, rate: float) -> Rule:
    """Return the rule that the same held-out normals give at another rate of false alarms.

    Raises:
        UserError: nothing was held out.
    """
    if not len(rule.stored.scores):
        raise UserError("false_alarm_rate=: nothing was held out; calibrate=FOLDER has normals")
    return Rule.of(rule.stored.at(rate))


def refuse_trained_on(run: Path, folder: Path) -> None:
    """Refuse pictures that the run trained on: they say nothing about new ones.

    Raises:
        UserError: names one of them.
    """
    from adbench.data.fingerprint import trained_on
    from adbench.runs.folder import RunFolder
    from adbench.training.testing import folder_pictures

    identity = RunFolder(run).record.get("identity")
    data = identity.get("data") if isinstance(identity, dict) else None
    known = trained_on(data, folder_pictures(folder, "calibrate")) if isinstance(data, dict) else []
    if known:
        raise UserError(
            f"calibrate={shown_path(folder)}: the run trained on {len(known)} of these pictures, "
            f"e.g. {known[0].relative}; a threshold needs others"
        )


def stored_threshold_path(place: Path) -> Path:
    """Return where the threshold of a run folder, or of an exported file, is stored."""
    if place.is_dir():
        return confined(place, FILE)
    return confined(place.parent, f"{place.name}.{FILE}")


def write_rule(path: Path, rule: Rule) -> None:
    """Store a rule; what was there before is kept once, as ``FILE.before``."""
    before = path.with_name(f"{path.name}.before")
    if path.exists() and not before.exists():
        shutil.copyfile(path, before)
    write_json(path, rule_document(rule))


def rule_document(rule: Rule) -> dict[str, object]:
    """Return the document that ``training.threshold.read_threshold`` reads."""
    return {
        "schema": 1,
        **asdict(rule.stored.threshold),
        "pixel": rule.stored.pixel_threshold,
        "held_out_scores": rule.stored.scores.tolist(),
    }
