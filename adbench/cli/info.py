"""``adbench info``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from adbench.errors import UserError

HELP = """usage: adbench info

Versions, devices, and where configuration, data, weights, caches and outputs are looked for."""


def run(words: Sequence[str]) -> int:
    """Print what the installation sees."""
    if words:
        raise UserError(f"info takes no arguments, found '{words[0]}'")
    from adbench.cli.console import print_table
    from adbench.config.locate import conf_folder
    from adbench.data.places import default_cache_folder
    from adbench.runs.environment import environment

    found = environment()
    print_table(
        "versions", ["package", "version"], list(map(list, found["versions"].items())), plain=False
    )
    rows = [
        ["device", str(found["device"])],
        ["cores, torch threads", f"{found['cores']}, {found['threads']}"],
        ["git revision", str(found["git"])],
        ["configuration", str(conf_folder())],
        ["data sets (ADBENCH_DATA)", str(Path(os.environ.get("ADBENCH_DATA", "data")).absolute())],
        ["image cache (ADBENCH_CACHE)", str(default_cache_folder())],
        ["its pictures, at most (ADBENCH_CACHE_SIZE)", _cache_size()],
        ["hub cache (HF_HOME)", os.environ.get("HF_HOME", "the hub library's default")],
        ["outputs (run.root)", str(Path("outputs").absolute())],
    ]
    print()
    print_table("places", ["what", "where"], rows, plain=False)
    return 0


def _cache_size() -> str:
    from adbench.data.cache import cached_bytes
    from adbench.data.places import cache_limit

    return f"{cached_bytes() / 1e9:.2f} GB of {cache_limit() / 1e9:g} GB"
