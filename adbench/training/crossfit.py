"""A threshold for which every normal image counts: each is scored by a detector of the others."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adbench.config.schema import Settings
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, Requirements
from adbench.methods.memo import RowMemo
from adbench.methods.once import OnePassModule
from adbench.metrics.ad2 import PixelMoments
from adbench.runs.folder import RunFolder
from adbench.training.build import build_module
from adbench.training.data import build_datamodule
from adbench.training.evaluate import HeldOut, held_out
from adbench.training.fit import fit_alone
from adbench.training.testing import device_of

_INSTEAD = "set threshold.folds=0 dataset.hold_out=0.1"


def check_folds(module: AnomalyModule, needs: Requirements, keys: Settings) -> None:
    """Refuse cross-fitting where folds could not repeat what the run does.

    Raises:
        UserError: says why they could not.
    """
    if not keys.threshold.folds:
        return
    if keys.train.refit:
        raise UserError("threshold.folds trains on all normal images: leave train.refit=false")
    asked = f"threshold.folds={keys.threshold.folds}: "
    if needs.uses_held_out:
        told = "this method's detector is settled on held-out normal images"
        raise UserError(f"{asked}{told}; {_INSTEAD}")
    if module.stages():
        raise UserError(f"{asked}this method trains in stages; {_INSTEAD}")
    if keys.train.select != "last":
        told = f"folds end with their last step, train.select={keys.train.select} does not"
        raise UserError(f"{asked}{told}; {_INSTEAD}")
    if keys.hardware.strategy == "ddp" and not needs.one_pass:
        raise UserError(f"{asked}folds are trained by one process, not by hardware=ddp; {_INSTEAD}")


def shared_features(keys: Settings) -> RowMemo | None:
    """Return what the run's detector and those of its folds share; None where nothing can be.

    Copies in other light share a photograph's name, so that nothing is kept of them.
    """
    return RowMemo() if keys.threshold.folds and not keys.train.light.copies else None


def cross_fitted(
    config: Mapping[str, Any],
    keys: Settings,
    samples: Sequence[Sample],
    folder: RunFolder,
    memo: RowMemo | None,
    say: Callable[[str], None],
) -> HeldOut:
    """Return what normals score with detectors that never saw them.

    The normals are split into ``threshold.folds`` parts; a detector of all other parts, made as
    the run's own is, scores each. Those detectors have seen a little less than the run's own, so
    that a threshold from their scores lies, if anywhere, on the side of fewer false alarms.

    Args:
        folder: of the run; nothing is written there.
        memo: features that the run's own detector was made of.
    """
    device = device_of(keys.hardware.accelerator)
    normals = len(build_datamodule(keys, samples, all_normals=True).splits.train)
    count = min(keys.threshold.folds, normals)
    if count < 2:
        return HeldOut(np.empty(0), None)
    say(f"threshold: {count} detectors score the part of {normals} normal images left out of each")
    moments = PixelMoments()
    scores = []
    for number in range(count):
        gc.collect()  # a trainer and its module hold each other, and features with them
        datamodule = build_datamodule(keys, samples, fold=(number, count))
        module = build_module(config, keys).to(device).eval()
        module.memo = memo
        module.prepare(datamodule)
        if not isinstance(module, OnePassModule):
            fit_alone(module, datamodule, keys, folder)
        module.finish(datamodule)
        found = held_out(module.detector, datamodule, keys.metrics, device, moments=moments)
        scores.append(found.scores)
    told = f"{normals} normal images, each left out of one of {count} detectors"
    return HeldOut(np.concatenate(scores), moments.threshold, told)
