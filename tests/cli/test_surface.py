"""The surface users type against: verbs, groups, options and keys. Changing it is a decision.

After a deliberate change: ``python -m tests.cli.test_surface`` writes surface.txt anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adbench.cli.main import VERBS
from adbench.config.compose import compose_config
from adbench.config.locate import GROUPS, SWEEPS, options

STORED = Path(__file__).with_name("surface.txt")


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def surface() -> str:
    """Return everything that can be typed, one line each."""
    lines = [f"verb {verb}" for verb in VERBS]
    lines += [f"{group}={name}" for group in (*GROUPS, *SWEEPS) for name in options(group)]
    keys: set[str] = set()
    for group in ("model", "dataset", "synthesis"):
        for name in options(group):
            for key in leaves(compose_config("train", [f"{group}={name}"])):
                own = key.startswith(f"{group}.")
                keys.add(f"{group}={name}: {key}" if own else key)
    shared = {key for key in keys if ": " not in key}
    kept = {key for key in shared if key.split(".")[0] not in ("model", "dataset", "synthesis")}
    lines += sorted(kept) + sorted(keys - shared)
    return "\n".join(lines) + "\n"


def test_the_surface_is_the_stored_one():
    assert surface() == STORED.read_text()


if __name__ == "__main__":
    STORED.write_text(surface())
