"""SLURM through submitit: job arrays, time-outs and preemption answered by queueing again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.config.schema import LauncherKeys
from adbench.errors import UserError
from adbench.sweeps.attempt import Ended
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Job
from adbench.sweeps.grid import Cell
from adbench.sweeps.local import Attempts

_REQUEUED = 144  # exit code of submitit's local executor for a job that SLURM would queue again


class Submitit:
    """Cells as jobs of one array a turn. Needs a folder that all nodes see.

    Args:
        folder: for submitit's own files.
    """

    remote, pause = True, 1.0

    def __init__(
        self, attempts: Attempts, folder: Path, keys: LauncherKeys, *, jobs: int | None = None
    ) -> None:
        self.attempts, self.jobs = attempts, jobs or keys.parallel
        self.executor = _executor(folder, keys)
        if self.executor.cluster == "local":
            self.pause = 0.2

    def start(self, cells: Sequence[Cell], claims: Claims) -> Sequence[Job]:
        attempts = [self.attempts(cell, claims, True) for cell in cells]
        with self.executor.batch():
            jobs = [self.executor.submit(attempt) for attempt in attempts]
        return [_SubmittedJob(job) for job in jobs]

    def close(self) -> None:
        """Jobs that still wait or run were stopped one by one."""


@dataclass(slots=True)
class _SubmittedJob:
    job: Any

    def poll(self) -> Ended | None:
        if not self.job.done():
            return None
        try:
            found: Ended = self.job.result()
        except Exception as error:
            return self._failure(error)
        return found

    def _failure(self, error: Exception) -> Ended:
        """Return what a job without a result came to: killed from outside, unless it says more."""
        told = " ".join(str(error).split())[:200]
        process = getattr(self.job, "_process", None)
        if "timed-out too many times" in told:
            return Ended("failed", reason="ran out of time, and of launcher.timeouts to go on")
        requeued = process is not None and process.returncode == _REQUEUED
        why = "out of time" if requeued else f"job {self.job.job_id} was lost: {told}"
        return Ended("lost", reason=why)

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.job.cancel(check=False)


def _executor(folder: Path, keys: LauncherKeys) -> Any:
    try:
        import submitit
    except ImportError:
        raise UserError("launcher=submitit needs it: pip install 'adbench[submitit]'") from None
    cluster = None if keys.executor == "auto" else keys.executor
    try:
        executor = submitit.AutoExecutor(
            folder=str(folder / "%j"), cluster=cluster, slurm_max_num_timeout=keys.timeouts
        )
    except RuntimeError as error:  # slurm is asked for, and there is no srun
        told = str(error).strip().rstrip("?")
        raise UserError(
            f"launcher.executor={keys.executor}: {told}; launcher.executor=local runs it here, "
            "launcher.dry_run=true writes the sbatch file"
        ) from None
    try:
        executor.update_parameters(**_parameters(keys))
    except (ValueError, TypeError) as error:
        raise UserError(f"launcher.slurm: {' '.join(str(error).split())[:300]}") from None
    return executor


def _parameters(keys: LauncherKeys) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timeout_min": keys.minutes,
        "cpus_per_task": math.ceil(keys.cpus),
        "slurm_job_name": "adbench",
        "slurm_array_parallelism": keys.parallel,
        "slurm_signal_delay_s": keys.notice,
    }
    if keys.gpus:
        found["gpus_per_node"] = math.ceil(keys.gpus)
    if keys.memory_gb is not None:
        found["mem_gb"] = keys.memory_gb
    return {**found, **{f"slurm_{name}": value for name, value in (keys.slurm or {}).items()}}


def sbatch_text(folder: Path, keys: LauncherKeys, count: int) -> str:
    """Return the sbatch file that would be submitted for ``count`` cells, on any machine.

    Raises:
        UserError: submitit is not installed, or ``launcher.slurm`` has a wrong key.
    """
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ImportError:
        raise UserError("launcher=submitit needs it: pip install 'adbench[submitit]'") from None

    class Elsewhere(SlurmExecutor):  # type: ignore[misc]
        """Writes the file where there is no srun to ask for."""

        @classmethod
        def affinity(cls) -> int:
            return 1

    executor = Elsewhere(folder / "%j", max_num_timeout=keys.timeouts)
    given = {n.removeprefix("slurm_"): v for n, v in _parameters(keys).items()}
    names: Any = executor._equivalence_dict()  # submitit's names -> SLURM's
    converted = {names.get(name, name): value for name, value in given.items()}
    if "mem" in converted:
        converted["mem"] = f"{converted['mem']}GB"
    try:
        executor._internal_update_parameters(**converted)
    except (ValueError, TypeError) as error:
        raise UserError(f"launcher.slurm: {' '.join(str(error).split())[:300]}") from None
    if count > 1:
        executor.parameters["map_count"] = count
    return str(executor._make_submission_file_text(executor._submitit_command_str, "0"))
