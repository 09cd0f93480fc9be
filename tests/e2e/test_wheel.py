"""The wheel in an environment of its own, run from another folder."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_runs_from_another_folder(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(REPOSITORY)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("adbench-*.whl")
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)],
        check=True,
    )
    # Dependencies come from the environment of the tests: only adbench itself is at stake.
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = subprocess.run(
        [python, "-c", "import adbench; print(adbench.__file__)"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert str(site) in where.stdout
    words = ["dataset.limit=6", "dataset.category=weave", "train.steps=2", "images.save=1"]
    options = ["dataset.options.train=6", "dataset.options.good=2", "dataset.options.defective=1"]
    run = subprocess.run(
        [home / "bin" / "adbench", "train", "experiment=quickstart", *words, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    folder = tmp_path / run.stdout.strip().splitlines()[-1]
    assert (folder / "metrics.json").is_file()
    assert "bundled with adbench" in run.stderr
