"""The Containerfile, as far as it can be judged without a builder."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def instructions():
    text = re.sub(r"\\\n", " ", (ROOT / "Containerfile").read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


def test_it_runs_as_nobody_of_consequence_from_a_pinned_image():
    found = instructions()
    images = [rest for name, rest in found if name == "FROM"]
    assert all(re.match(r"docker\.io/library/python:3\.1[123]-slim-\w+", name) for name in images)
    names = [name for name, _ in found]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert dict(found)["USER"] != "0"
    assert "ADD" not in names
    assert not any("TOKEN" in rest for name, rest in found if name in ("ENV", "ARG", "CMD"))


def test_what_it_copies_is_there_and_what_it_installs_is_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / part).exists() for part in rest.split()[:-1]), rest
        for listed in re.findall(r"'\.\[([\w,]+)\]'", rest):
            assert set(listed.split(",")) <= set(extras["optional-dependencies"])
