"""Finds conf/: the mapped package of a wheel or an editable install, or the checkout itself."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from adbench.errors import UserError


def conf_folder() -> Path:
    """Return the folder of adbench's own configuration files.

    Raises:
        UserError: the installation lacks it.
    """
    if given := os.environ.get(FIXED):
        if (Path(given) / "train.yaml").is_file():
            return Path(given)
        raise UserError(f"{FIXED}={given} holds no configuration (train.yaml)")
    beside = Path(__file__).parents[2] / "conf"
    if (beside / "train.yaml").is_file():
        return beside
    spec = importlib.util.find_spec("adbench.conf")
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / "train.yaml").is_file():
            return Path(location)
    raise UserError("the configuration files (adbench.conf) are not installed; reinstall adbench")


# names the copy of conf/ that the cells of a sweep read: fixed when the sweep began
FIXED = "ADBENCH_CONF"
# groups of `adbench sweep` alone
SWEEPS = ("launcher", "sweep")
# in the order in which help shows them
GROUPS = (
    "model",
    "dataset",
    "synthesis",
    "diffusion",
    "backbone",
    "hardware",
    "experiment",
    "logger",
)


def options(group: str, extra: Path | None = None) -> list[str]:
    """Return the names that ``GROUP=`` takes; ``extra`` is a user's --config-dir."""
    folders = [conf_folder() / group, *([extra / group] if extra else [])]
    found = {path.stem for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")}
    return sorted(found)


def nested_options(group: str) -> list[str]:
    """Return the names with a folder (``anomalib/padim``) that ``GROUP=`` takes.

    They need an extra of the package, so that what walks over all of a group leaves them out.
    """
    root = conf_folder() / group
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.yaml")
    )
