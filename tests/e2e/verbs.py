"""The command line for tests: as a process, or in this one, on a tiny data set of toys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from adbench.cli.main import main

REPOSITORY = Path(__file__).parents[2]
TOY = ["--config-dir", str(REPOSITORY / "tests" / "toy" / "conf")]


def environment(**more):
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "ADBENCH_PLUGINS": "tests",
        **more,
    }


def process(*words, cwd, check=None, timeout=240, **variables):
    """Run the command line as a user does."""
    run = subprocess.run(
        [sys.executable, "-m", "adbench", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**variables),
    )
    if check is not None:
        assert run.returncode == check, run.stdout + run.stderr
    return run


class Here:
    """Runs the command line in this process, in a folder of its own: seconds less a call."""

    def __init__(self, monkeypatch, capfd, folder):
        monkeypatch.chdir(folder)
        self.capfd, self.folder = capfd, folder

    def __call__(self, *words, check=None):
        self.capfd.readouterr()
        code = main(list(words))
        out, err = self.capfd.readouterr()
        assert "Traceback" not in err, err
        if check is not None:
            assert code == check, f"{code}\n{out}\n{err}"
        return Result(code, out, err, self.folder)


class Result:
    def __init__(self, code, out, err, folder):
        self.code, self.out, self.err = code, out, err
        lines = out.strip().splitlines()
        self.path = folder / lines[-1] if lines else None

    @property
    def told(self):
        """The last line on stderr."""
        return self.err.strip().splitlines()[-1]


def tiny_data(root, categories=("nut",), train=12, test=3, side=24):
    """MVTec's layout, a bright square as defect."""
    rng = np.random.default_rng(0)
    for category in categories:
        for folder, count in (("train/good", train), ("test/good", test), ("test/spot", test)):
            for number in range(count):
                path = root / category / folder / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image = rng.integers(90, 110, (side, side, 3), dtype=np.uint8)
                if folder == "test/spot":
                    image[6:12, 6:12] = 250
                    mask = np.zeros((side, side), np.uint8)
                    mask[6:12, 6:12] = 255
                    truth = root / category / "ground_truth/spot" / f"{number:03d}_mask.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(truth), mask)
                cv2.imwrite(str(path), image)
    return root


def toy(data, *more, model="toy"):
    keys = [f"dataset.root={data}", "dataset=mvtec", "dataset.image_size=24", "hardware=cpu"]
    return [f"model={model}", *keys, "hardware.threads=1", *more, *TOY]


def metrics(folder):
    document = json.loads((folder / "metrics.json").read_text())
    document.pop("seconds")
    return document


def record(folder):
    return json.loads((folder / "run.json").read_text())
