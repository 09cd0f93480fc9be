"""What a run folder answers for: one configuration, one set of pictures, one state of the code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from adbench.runs.environment import versions
from adbench.runs.folder import relevant

# Packages whose versions can change figures; the others are recorded in `environment` alone.
_DECIDING = ("adbench", "torch", "timm", "diffusers", "numpy", "opencv-python-headless")
# Where data lies decides nothing: the pictures' fingerprint does.
_PLACES = ("dataset.root", "dataset.folder")
_MOST = 4  # differences that a message names


def identity(config: Mapping[str, Any], data: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Return what must be equal for two commands to mean the same run; for run.json.

    Args:
        config: resolved configuration of the run.
        data: fingerprint of the pictures.
        device: ``cpu`` or the name of the GPU.
    """
    installed = versions()
    return {
        "config": {name: value for name, value in flat(relevant(config)) if name not in _PLACES},
        "versions": {name: installed[name] for name in _DECIDING},
        "code": code_digest(),
        "files": weight_files(config),
        "device": device,
        "data": dict(data),
    }


def flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted name, value) of every leaf."""
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found += (
            flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, value)]
        )
    return found


@cache
def code_digest() -> str:
    """Return a hash of adbench's own files, the command line apart: what a version number means.

    In a checkout the number stays while the code changes.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.safetensors")]):
        name = path.relative_to(package).as_posix()
        if not name.startswith("cli/"):
            digest.update(name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def weight_files(config: Mapping[str, Any]) -> dict[str, str]:
    """Return dotted key -> hash of the weights files that a configuration names."""
    found = {}
    for section in ("backbone", "model"):
        value = (config.get(section) or {}).get("weights")
        if isinstance(value, str) and (path := Path(value).expanduser()).is_file():
            found[f"{section}.weights"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return found


def differing(
    stored: Mapping[str, Any], found: Mapping[str, Any], data: Sequence[str]
) -> list[str]:
    """Return in words where two identities differ; empty where they are one.

    Args:
        stored: of run.json, possibly of an older adbench or damaged.
        found: of the present command.
        data: in words, how the pictures differ.
    """
    told = _values(stored.get("config"), found["config"], "{name}={old}, now {new}")
    told += _values(stored.get("files"), found["files"], "another file as {name}")
    told += list(data)
    told += _values(stored.get("versions"), found["versions"], "{name} {old}, now {new}")
    if stored.get("code") != found["code"] and not told:
        told.append("other code of adbench")
    if stored.get("device") != found["device"]:
        told.append(f"device {stored.get('device')}, now {found['device']}")
    return told


def _values(stored: Any, found: Mapping[str, Any], form: str) -> list[str]:
    before = stored if isinstance(stored, Mapping) else {}
    names = sorted({*before, *found}, key=lambda name: (name.count("."), name))
    told = [
        form.format(name=name, old=_word(before.get(name)), new=_word(found.get(name)))
        for name in names
        if _plain(before.get(name)) != _plain(found.get(name))
    ]
    more = [f"and {len(told) - _MOST} more"] if len(told) > _MOST else []
    return told[:_MOST] + more


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _word(value: Any) -> str:
    return "null" if value is None else str(value)[:60]
