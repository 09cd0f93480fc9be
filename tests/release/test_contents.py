"""The licence is the canonical text; the wheel and the sdist hold what they should."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.e2e.verbs import REPOSITORY
from tests.release.lowest import pins

APACHE = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_the_licence_is_apache_unmodified():
    assert hashlib.sha256((REPOSITORY / "LICENSE").read_bytes()).hexdigest() == APACHE
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert "Apache-2.0" in (REPOSITORY / "README.md").read_text()
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["license"] == "Apache-2.0"


def test_every_dependency_has_a_lowest_version_that_is_tried():
    extras = PROJECT["project"]["optional-dependencies"]
    found = dict(line.split("==") for line in pins(extras))
    for line in PROJECT["project"]["dependencies"]:
        assert ">=" in line, line
    assert found["torch"] == "2.8"
    assert set(dict(line.split("==") for line in pins())) <= set(found)


def test_licences_name_everything_that_is_read(here):
    told = here("info", "licences", check=0).out
    for name in ("Apache-2.0", "backbone=bundled", "mvtec_loco", "CVPR 2024", "diffusers"):
        assert name in told
    assert "imitates" in told


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Wheel and sdist, built once, in the environment of the tests."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, REPOSITORY]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named build" in done.stderr:
        pytest.skip("build is not installed")
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    held = {name for name in names if ".dist-info/" not in name}
    assert all(name.startswith("adbench/") for name in held)
    listed = subprocess.run(
        ["git", "ls-files", "adbench", "conf"], cwd=REPOSITORY, capture_output=True, text=True
    ).stdout.split()
    wanted = {
        f"adbench/{name}" if name.startswith("conf/") else name
        for name in listed
        if Path(name).suffix not in (".json",)
    }
    assert held == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 16e6


@pytest.mark.slow
def test_the_sdist_holds_what_builds_and_explains_it(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()} - {""}
    for name in ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt"):
        assert name in names
    assert {"conf/train.yaml", "adbench/py.typed", "docs/start.md", "tests/conftest.py"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {".venv", "outputs", "site", ".git", "data", "dist", "build"}
