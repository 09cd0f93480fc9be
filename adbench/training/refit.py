"""Training once more on all normal images, where a first training has held some out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adbench.config.schema import Settings
from adbench.errors import UserError
from adbench.runs.summary import read_metrics
from adbench.training.build import build_module

FIRST = "held_out"  # run folder of the first training, inside the run folder


def first_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the first training: the same without ``train.refit``."""
    return {**config, "train": {**config["train"], "refit": False}}


def check_refit(config: Mapping[str, Any], keys: Settings) -> None:
    """Refuse what a second training could not do, before the first one.

    Raises:
        UserError: the method's detector is settled on held-out normals.
    """
    if build_module(config, keys).requirements(1).uses_held_out:
        raise UserError("train.refit=true: this method settles its maps on held-out normals")


def refit_keys(keys: Settings, first: Path) -> Settings:
    """Return the settings of the second training: as many epochs as the first one chose.

    Raises:
        UserError: the first training held nothing out.
    """
    metrics = read_metrics(first)
    if metrics["threshold"]["value"] is None:
        raise UserError("train.refit=true needs held-out normals: set dataset.hold_out=0.1")
    if keys.train.select != "validation":
        return keys
    chosen = replace(
        keys.train,
        epochs=metrics["epoch"],
        steps=None,
        minutes=None,
        select="last",
        validate_every=0,
    )
    return replace(keys, train=chosen)
