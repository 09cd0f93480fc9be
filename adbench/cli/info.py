"""``adbench info``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from adbench.errors import UserError

HELP = """usage: adbench info
       adbench info experiment=NAME
       adbench info licences

Versions, devices, and where configuration, data, weights, caches and outputs are looked for.
With experiment=NAME: where that preset differs from its method's paper and from the authors' code,
as the presets METHOD_paper and METHOD_code have them.
licences: terms of the code, of weights, data sets, papers, and of the packages installed here."""


def run(words: Sequence[str]) -> int:
    """Print what the installation sees, or how a preset differs from what was published."""
    if len(words) == 1 and words[0].startswith("experiment="):
        return _preset(words[0].partition("=")[2])
    if list(words) == ["licences"]:
        return _licences()
    if words:
        raise UserError(f"info takes experiment=NAME or licences, found '{words[0]}'")
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


def _licences() -> int:
    from adbench.cli.licences import tables

    for title, _, rows in tables():
        print(title)
        for first, *rest in rows:
            print(f"  {first}: {'; '.join(filter(None, rest))}")
        print()
    return 0


def _cache_size() -> str:
    from adbench.data.cache import cached_bytes
    from adbench.data.places import cache_limit

    return f"{cached_bytes() / 1e9:.2f} GB of {cache_limit() / 1e9:g} GB"


def _preset(name: str) -> int:
    """Print one line for each key in which a preset differs from a published one."""
    from adbench.cli.console import print_table
    from adbench.config.compose import compose_config
    from adbench.config.locate import options
    from adbench.runs.folder import relevant
    from adbench.runs.identity import flat

    own = compose_config("train", [f"experiment={name}"])
    model = own["model"]["name"]
    published = [f"{model}_{kind}" for kind in ("paper", "code")]
    known = [preset for preset in published if preset in options("experiment")]
    if not known:
        raise UserError(f"{model} has no preset of its paper or code to compare {name} with")
    found = {
        preset: dict(flat(relevant(compose_config("train", [f"experiment={preset}"]))))
        for preset in [name, *[each for each in known if each != name]]
    }
    keys = dict.fromkeys(key for values in found.values() for key in values)
    rows = [
        [key, *[_shown(values, key) for values in found.values()]]
        for key in keys
        if len({_shown(values, key) for values in found.values()}) > 1
    ]
    print_table(f"{name} beside what was published", ["key", *found], rows, plain=False)
    return 0


def _shown(values: dict[str, object], key: str) -> str:
    from adbench.config.typed import shown

    return shown(values[key], longest=34) if key in values else ""
