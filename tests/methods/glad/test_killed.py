"""A GLAD run killed in its autoencoder stage, then in its fit, ends as one that never was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.e2e.verbs import environment, process, tiny_data

KEYS = """experiment=glad_cpu dataset=mvtec dataset.root=data dataset.category=nut
dataset.image_size=32 dataset.hold_out=0.25 hardware.threads=1 hardware.precision=32-true plain=true
backbone.layers=[layer1,layer2] diffusion.autoencoder.kind=small diffusion.autoencoder.channels=4
diffusion.autoencoder.widths=[8,8] diffusion.autoencoder.steps=60 diffusion.autoencoder.crop=null
diffusion.save_every=10 diffusion.network.widths=[8,8] diffusion.network.attention=[]
diffusion.network.head=8 train.steps=60 train.batch_size=4 train.checkpoint_minutes=0 model.steps=4
model.draw=2 images.save=2""".split()


def written(folder, file):
    try:
        return bool(list(folder.glob(f"outputs/**/{file}")))
    except FileNotFoundError:  # a folder took its last name while it was being looked through
        return False


def killed_at(folder, file, *words):
    """Start, and kill as soon as ``file`` is there."""
    run = subprocess.Popen(
        [sys.executable, "-m", "adbench", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 200
    while not written(folder, file):
        assert run.poll() is None, f"ended before there was a {file}"
        assert time.monotonic() < end
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_the_same_command_ends_as_if_nobody_had_killed_it(tmp_path):
    tiny_data(tmp_path / "data", train=12, side=32)
    whole = process("train", *KEYS, "run.name=whole", cwd=tmp_path, check=0)
    killed_at(tmp_path, "killed/**/autoencoder.ckpt", "train", *KEYS, "run.name=killed")
    folder = tmp_path / "outputs/glad/mvtec/nut"
    assert not (folder / "killed/stages/autoencoder/stage.json").exists()
    killed_at(tmp_path, "killed/checkpoints/last.ckpt", "train", *KEYS, "run.name=killed")
    assert (folder / "killed/stages/autoencoder/stage.json").exists()
    again = process("train", *KEYS, "run.name=killed", cwd=tmp_path, check=0)
    assert "stage autoencoder: finished before, kept" in again.stdout + again.stderr
    found = [
        json.loads((folder / name / "metrics.json").read_text()) for name in ("whole", "killed")
    ]
    for metrics in found:
        metrics.pop("seconds")
    assert found[0] == found[1], whole.stderr
    assert (folder / "killed/sheet.png").is_file()
