"""Prints the lowest version of everything that pyproject.toml promises to work with, as pins.

    python -m tests.release.lowest [EXTRA ...] > lowest.txt
    pip install -c lowest.txt '.[EXTRA,...]'

`make test-lowest` does this in an environment of its own and runs the tests in it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
BOUND = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(\[[^]]*\])?\s*(?P<rest>.*)$")


def pins(extras: Sequence[str] = ()) -> Iterator[str]:
    """Yield ``name==lowest`` of the dependencies and of ``extras``."""
    project = tomllib.loads(PROJECT.read_text("utf-8"))["project"]
    listed = list(project["dependencies"])
    for extra in extras:
        listed += project["optional-dependencies"][extra]
    for line in dict.fromkeys(listed):
        found = BOUND.match(line)
        lowest = re.search(r">=\s*([\w.]+)", line)
        if found and lowest:
            yield f"{found['name']}=={lowest[1]}"


if __name__ == "__main__":
    print("\n".join(pins(sys.argv[1:])))
