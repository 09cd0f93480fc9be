"""GLAD on a tiny Stable Diffusion in the published folder layout, end to end."""

from __future__ import annotations

import pytest
import torch

from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.methods.base import load_detector, save_detector
from adbench.runs.files import read_json
from adbench.training.session import train
from tests.data import trees
from tests.diffusion.test_latent_stable import folder  # noqa: F401
from tests.methods.glad.conftest import SIZE, glad


@pytest.fixture
def model(folder):  # noqa: F811
    return StableDiffusion(path=str(folder), embeddings=str(folder / "prompts.safetensors"))


def test_fine_tuning_moves_the_network_alone(backbone, datamodule, model, monkeypatch):
    module = glad(backbone, model=model, optimiser={"learning_rate": 1e-3, "checkpointing": True})
    module.prepare(datamodule)
    monkeypatch.setattr(type(module), "current_epoch", 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = module.configure_optimizers()
    module.train()
    loss, parts = module._loss(next(datamodule.train_batches(4)), 0)
    loss.backward()
    optimiser.step()
    assert torch.isfinite(loss)
    assert parts["defect"] > 0
    after = module.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all("network." in name and "backbone" not in name for name in moved)


@torch.no_grad()
def test_guided_walks_do_not_depend_on_the_batch(backbone, datamodule, model, tmp_path):
    module = glad(backbone, model=model, ads={"search": "bisect"})
    module.prepare(datamodule)
    module.eval()
    module.finish(datamodule)
    image = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    whole = module.detector(image)
    alone = torch.cat([module.detector(one[None]).score for one in image])
    assert torch.allclose(whole.score, alone, atol=1e-5)
    save_detector(module.detector, tmp_path)
    assert torch.allclose(load_detector(tmp_path)(image).score, whole.score, atol=1e-5)


@pytest.mark.slow
def test_a_whole_run_from_the_command_line(folder, tmp_path):  # noqa: F811
    for split, count in (("train/good", 5), ("test/good", 2), ("test/hole", 2)):
        for number in range(count):
            trees.image(tmp_path / "nut" / split / f"{number:03d}.png", size=(32, 32))
    for number in range(2):
        trees.mask(tmp_path / "nut/ground_truth/hole" / f"{number:03d}_mask.png", size=(32, 32))
    overrides = [
        "model=glad",
        "diffusion=sd15",
        f"diffusion.path={folder}",
        f"diffusion.embeddings={folder / 'prompts.safetensors'}",
        "synthesis=las",
        "dataset=mvtec",
        f"dataset.root={tmp_path}",
        "dataset.category=nut",
        "dataset.image_size=32",
        "dataset.hold_out=0.3",
        "hardware=cpu",
        "hardware.threads=1",
        "train.steps=2",
        "train.batch_size=2",
        "model.steps=4",
        "images.save=1",
        f"run.root={tmp_path / 'out'}",
    ]
    config = compose_config("train", overrides)
    assert settings(config).dataset.size == (32, 32)
    (run,) = train(config, overrides, lambda line: None)
    assert (run / "metrics.json").is_file()
    recorded = read_json(run / "run.json")["weights"]["diffusion"]
    assert len(recorded["files"][0]["sha256"]) == 64
    assert (run / "glad" / "reconstructions.png").is_file()
