"""From the group ``launcher`` to what starts cells."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from adbench.config.schema import LauncherKeys
from adbench.sweeps.attempt import Attempt
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Launcher
from adbench.sweeps.grid import Cell
from adbench.sweeps.local import Attempts, Joblib, Local


def build_launcher(
    keys: LauncherKeys,
    folder: Path,
    root: Path,
    *,
    jobs: int | None,
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    conf: Path | None = None,
) -> Launcher:
    """Return what starts cells.

    Args:
        folder: of the sweep.
        root: where run folders lie.
        jobs: cells at a time; None: what the launcher holds.
        flags: what follows every cell's overrides.
        environ: variables of every cell.
        conf: the sweep's own configuration.

    Raises:
        UserError: its package is missing, or its cluster does not answer.
    """
    attempts = attempts_of(folder, flags, environ or {})
    if keys.name == "local":
        return Local(attempts, jobs=jobs or 1, devices=keys.devices)
    if keys.name == "joblib":
        return Joblib(attempts, jobs=jobs, devices=keys.devices)
    if keys.name == "submitit":
        from adbench.sweeps.slurm import Submitit

        return Submitit(attempts, folder / "submitit", keys, jobs=jobs)
    from adbench.sweeps.cluster import Ray

    return Ray(attempts, folder, root, keys, jobs=jobs, conf=conf)


def attempts_of(folder: Path, flags: Sequence[str], environ: Mapping[str, str]) -> Attempts:
    """Return what makes attempts at cells of the sweep in ``folder``."""
    logs = (folder / "logs").resolve()

    def attempt(cell: Cell, claims: Claims, remote: bool) -> Attempt:
        words = (*cell.overrides, "plain=true", *flags)
        lease = str(claims.lease_of(cell).resolve()) if remote else None
        return Attempt(words, str(logs / f"{cell.id}.log"), os.getcwd(), environ, lease)

    return attempt
