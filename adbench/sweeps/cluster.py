"""Ray: a cell is a task with its CPUs and GPUs declared, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adbench.config.schema import LauncherKeys
from adbench.errors import UserError
from adbench.runs.files import confined, folder_beside
from adbench.sweeps.attempt import Attempt, Ended
from adbench.sweeps.claims import Claims
from adbench.sweeps.engine import Job
from adbench.sweeps.grid import Cell
from adbench.sweeps.local import Attempts

_PASSED = ("PYTHONPATH", "ADBENCH_DATA", "ADBENCH_PLUGINS", "OMP_NUM_THREADS")
_LEFT = "checkpoints"  # of a run folder that is copied back: nothing reads them once it is finished


class Ray:
    """Cells as tasks. Nodes that see the sweep's folder write there; from others it is copied.

    Args:
        folder: of the sweep.
        root: where run folders lie.
        conf: the sweep's own configuration, sent along where a node does not see the folder.
    """

    remote, pause = True, 0.2

    def __init__(
        self,
        attempts: Attempts,
        folder: Path,
        root: Path,
        keys: LauncherKeys,
        *,
        jobs: int | None = None,
        conf: Path | None = None,
    ) -> None:
        self.ray = _connected(keys)
        self.attempts, self.root, self.keys = attempts, root, keys
        self.jobs = jobs or self._room()
        folder.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(16)
        self.token = folder / "shared.token"
        self.token.write_text(token, encoding="ascii")
        self.shared = (str(self.token.resolve()), token)
        self.conf = None if conf is None else str(conf.resolve())
        self.packed = None if conf is None else self.ray.put(_packed(conf, conf))
        options = {"num_cpus": keys.cpus, "num_gpus": keys.gpus, "max_retries": 0}
        self.task = self.ray.remote(**options)(on_node)

    def _room(self) -> int:
        """Return how many cells the cluster holds at a time; at least one waits for a node."""
        there = self.ray.cluster_resources()
        rooms = [there.get("CPU", 0.0) / self.keys.cpus] if self.keys.cpus else []
        rooms += [there.get("GPU", 0.0) / self.keys.gpus] if self.keys.gpus else []
        return max(int(min(rooms, default=1)), 1)

    def start(self, cells: Sequence[Cell], claims: Claims) -> Sequence[Job]:
        environ = {name: os.environ[name] for name in _PASSED if name in os.environ}
        jobs = []
        for cell in cells:
            attempt = self.attempts(cell, claims, True)
            attempt.environ = {**environ, **attempt.environ}
            task = self.task.remote(attempt, self.shared, self.conf, self.packed)
            jobs.append(_Task(self, task))
        return jobs

    def close(self) -> None:
        self.token.unlink(missing_ok=True)
        self.ray.shutdown()


@dataclass(slots=True)
class _Task:
    owner: Ray
    reference: Any

    def poll(self) -> Ended | None:
        ray = self.owner.ray
        if not ray.wait([self.reference], timeout=0)[0]:
            return None
        try:
            found: Ended = ray.get(self.reference)
        except ray.exceptions.RayTaskError as error:
            return Ended("failed", reason=" ".join(str(error.cause).split())[:300])
        except ray.exceptions.RayError as error:  # the worker or its node died, or it was cancelled
            return Ended("lost", reason=f"a worker of ray was lost ({type(error).__name__})")
        return unpacked(found, self.owner.root)

    def stop(self) -> None:
        ray = self.owner.ray
        with contextlib.suppress(Exception):
            ray.cancel(self.reference, force=False)
            ray.wait([self.reference], timeout=30)


def on_node(
    attempt: Attempt, token: tuple[str, str], conf: str | None, packed: bytes | None
) -> Ended:
    """Run a cell on whatever node this is; without the shared folder, pack what it made.

    Args:
        token: a file of the sweep's folder, and what it holds where it is the same folder.
        conf: folder of the sweep's configuration.
        packed: the same as a tar file.
    """
    path, text = token
    with contextlib.suppress(OSError):
        if Path(path).read_text(encoding="ascii") == text:
            return attempt()
    with tempfile.TemporaryDirectory(prefix="adbench-") as place:
        if conf is None or packed is None:
            return _apart(attempt, Path(place))
        own = Path(place) / "conf"
        own.mkdir()
        _extract(packed, own)
        return _apart(_moved(attempt, conf, str(own)), Path(place))


def _moved(attempt: Attempt, before: str, after: str) -> Attempt:
    """Return an attempt that reads its configuration elsewhere."""
    words = tuple(word.replace(before, after) for word in attempt.overrides)
    environ = {name: value.replace(before, after) for name, value in attempt.environ.items()}
    return Attempt(words, attempt.log, attempt.cwd, environ)


def _apart(attempt: Attempt, place: Path) -> Ended:
    """Run a cell below ``place`` and return its run folder as a tar file."""
    root = place / "outputs"
    words = (*attempt.overrides, f"run.root='{root}'")
    found = Attempt(words, str(place / "log.txt"), str(place), attempt.environ)()
    if found.status != "finished" or found.folder is None:
        return found
    folder = (place / found.folder).resolve()
    name = folder.relative_to(root.resolve()).as_posix()
    return Ended("finished", name, archive=_packed(folder, folder, without=(_LEFT, ".lock")))


def _packed(folder: Path, above: Path, without: Sequence[str] = ()) -> bytes:
    """Return a folder as a tar file, without some of its children."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for child in sorted(folder.iterdir()):
            if child.name not in without:
                archive.add(child, child.relative_to(above).as_posix())
    return buffer.getvalue()


def _extract(archive: bytes, folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        opened.extractall(folder, filter="data")


def unpacked(found: Ended, root: Path) -> Ended:
    """Put a run folder that was sent here where it belongs; return how the cell ended."""
    if found.archive is None or found.folder is None:
        return found
    try:
        folder = confined(root, *found.folder.split("/"))
        with folder_beside(folder) as temporary:
            _extract(found.archive, temporary)
    except (OSError, tarfile.TarError, UserError) as error:
        return Ended("failed", reason=f"what a node sent cannot be unpacked: {error}"[:300])
    return Ended("finished", str(folder))


def _connected(keys: LauncherKeys) -> Any:
    """Return ray, connected to ``launcher.address``, or with a cluster of this machine.

    Raises:
        UserError: ray is not installed, or nobody answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError("launcher=ray needs it: pip install 'adbench[ray]'") from None
    given: dict[str, Any] = (
        {"address": keys.address} if keys.address else {"include_dashboard": False}
    )
    path = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    try:
        ray.init(
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": path} if path else None,
            **given,
        )
    except Exception as error:  # ray raises plain ones, too
        told = " ".join(str(error).split())[:200]
        if not keys.address:
            raise UserError(f"launcher=ray: no cluster starts on this machine ({told})") from None
        raise UserError(
            f"launcher.address={keys.address}: no ray cluster answers ({told}); start one with "
            "`ray start --head`, with one RAY_AUTH_MODE everywhere, or leave launcher.address out"
        ) from None
    return ray
