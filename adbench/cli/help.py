"""Help texts with the groups' options, read from conf/ without Hydra."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from adbench.config.locate import GROUPS, options


def group_help(synopsis: str, what: str, keys: Sequence[str], also: Sequence[str] = ()) -> str:
    """Return the help of a verb that composes groups; ``also`` names groups of its own."""
    lines = [f"usage: {synopsis}", "", what, "", "groups (GROUP=NAME):"]
    for group in (*GROUPS, *also):
        names = ", ".join(options(group)) or "-"
        lines += textwrap.wrap(
            names, 96, initial_indent=f"  {group:<11} ", subsequent_indent=" " * 14
        )
    lines += ["", "keys worth changing:", *[f"  {key}" for key in keys]]
    lines += ["", "Every key with its meaning: conf/ in the repository, or the run's config.yaml."]
    return "\n".join(lines)
