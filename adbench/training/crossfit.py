"""A threshold for which every normal image counts: each is scored by a detector of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adbench.config.schema import Settings
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.methods.base import Requirements
from adbench.methods.once import OnePassModule
from adbench.methods.patches import RowMemo
from adbench.metrics.ad2 import PixelMoments
from adbench.training.build import build_module
from adbench.training.data import build_datamodule
from adbench.training.evaluate import HeldOut, held_out
from adbench.training.testing import device_of


def check_folds(needs: Requirements, keys: Settings) -> None:
    """Refuse cross-fitting where it would train for minutes, or beside a second training.

    Raises:
        UserError: one of these.
    """
    if not keys.threshold.folds:
        return
    if not needs.one_pass:
        raise UserError(
            f"threshold.folds={keys.threshold.folds}: this method learns step by step, so that "
            "every fold would be a whole training; set threshold.folds=0 dataset.hold_out=0.1"
        )
    if keys.train.refit:
        raise UserError("threshold.folds trains on all normal images: leave train.refit=false")


def cross_fitted(
    config: Mapping[str, Any],
    keys: Settings,
    samples: Sequence[Sample],
    say: Callable[[str], None],
) -> HeldOut:
    """Return what normals score with detectors that never saw them.

    The normals are split into ``threshold.folds`` parts; a detector of all other parts, made as
    the run's own is, scores each. Those detectors have seen a little less than the run's own, so
    that a threshold from their scores lies, if anywhere, on the side of fewer false alarms.
    """
    device = device_of(keys.hardware.accelerator)
    normals = len(build_datamodule(keys, samples, all_normals=True).splits.train)
    count = min(keys.threshold.folds, normals)
    if count < 2:
        return HeldOut(np.empty(0), None)
    say(f"threshold: {count} detectors score the part of {normals} normal images left out of each")
    moments = PixelMoments()
    scores = []
    memo = None if keys.train.light.copies else RowMemo()  # copies share a photograph's name
    for number in range(count):
        datamodule = build_datamodule(keys, samples, fold=(number, count))
        module = build_module(config, keys).to(device).eval()
        if isinstance(module, OnePassModule):
            module.memo = memo
        module.prepare(datamodule)
        module.finish(datamodule)
        found = held_out(module.detector, datamodule, keys.metrics, device, moments=moments)
        scores.append(found.scores)
    told = f"{normals} normal images, each left out of one of {count} detectors"
    return HeldOut(np.concatenate(scores), moments.threshold, told)
