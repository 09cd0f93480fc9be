"""SDAS trains, resumes, saves, scores and fills pools."""

import json

import cv2
import lightning
import numpy as np
import pytest
import torch
import yaml

from adbench.backbones.maps import working_picture
from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample
from adbench.diffusion.fitting import FitKeys, fit_model, leave_gradient, sdas_stages, training_loss
from adbench.diffusion.pool import PoolKeys, make_pool, planned_images
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.sdas.detector import SdasDetector
from adbench.methods.sdas.module import SdasModule
from adbench.runs.stages import run_stages

NETWORK = {"preset": "tiny", "multipliers": [1, 2], "attention": [2]}


def written(folder, category, count, seed):
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(count):
        image = np.full((16, 16, 3), 180, np.uint8)
        cv2.circle(image, (8, 8), int(rng.integers(3, 6)), (40, 90, 20 * seed), -1)
        path = folder / f"{category}{i}.png"
        cv2.imwrite(str(path), image)
        samples.append(Sample(path, 0, category, "good", "train", root=folder))
    return samples


@pytest.fixture
def data(tmp_path):
    samples = written(tmp_path, "disc", 4, 1) + written(tmp_path, "ring", 4, 2)
    return DataModule(Splits(samples, samples[:1], []), image_size=(16, 16), batch_size=4)


def module(**keys):
    torch.manual_seed(3)
    keys = {"network": NETWORK, "sheet": 2, "learning_rate": 1e-3, **keys}
    return SdasModule(backbone=None, synthesis=None, image_size=(16, 16), seed=3, **keys)


def fitted(made, data, epochs, checkpoint=None):
    made.prepare(data)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(made, datamodule=data, ckpt_path=checkpoint, weights_only=False)
    return trainer


def test_loss_falls_and_the_detector_is_the_average(data):
    made = module()
    losses = []
    step = made.training_step
    made.training_step = lambda *a: losses.append(found := step(*a)) or found
    fitted(made, data, 20)
    mse = [float(part["mse"]) for part in losses]
    assert all(np.isfinite(float(part["loss"])) for part in losses)
    assert np.mean(mse[-10:]) < 0.6 * mse[0]
    assert made.detector.model.classes == ["disc", "ring"]
    assert int(made.updates) == 40
    pairs = zip(made.network.parameters(), made.detector.model.network.parameters(), strict=True)
    assert any(not torch.equal(live, average) for live, average in pairs)


def test_resumed_training_equals_an_uninterrupted_one(data, tmp_path):
    whole = module()
    fitted(whole, data, 2)
    half = module()
    fitted(half, data, 1).save_checkpoint(tmp_path / "half.ckpt")
    rest = module()
    fitted(rest, data, 2, tmp_path / "half.ckpt")
    state, other = whole.state_dict(), rest.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)


def test_micro_batches_leave_the_mean_gradient(data):
    """One image a micro-batch draws what its own call draws; the mean over them is one step."""
    made = module()
    made.prepare(data)
    batch = next(data.train_batches(3))
    model = made.detector.model
    label = model.labels(batch.category)
    generator = torch.Generator().manual_seed(0)
    leave_gradient(made.network, model, batch.image, label, 0.001, generator, micro_batch=1)
    total = made.network.unet.conv_out.weight.grad.clone()
    made.network.zero_grad()
    generator = torch.Generator().manual_seed(0)
    parts = [
        training_loss(
            made.network, model, batch.image[i : i + 1], label[i : i + 1], 0.001, generator
        )[0]
        for i in range(3)
    ]
    (sum(parts) / 3).backward()
    torch.testing.assert_close(made.network.unet.conv_out.weight.grad, total)


def test_saved_detector_scores_the_same_alone_and_in_a_batch(data, tmp_path):
    made = module()
    fitted(made, data, 1)
    made.eval()
    save_detector(made.detector, tmp_path)
    loaded = load_detector(tmp_path)
    image = torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, two = made.detector(image), loaded(image)
        alone = loaded(image[2:3])
    assert torch.equal(one.score, two.score)
    assert two.anomaly_map.shape == (4, 1, 24, 20)
    torch.testing.assert_close(alone.score, two.score[2:3], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone.anomaly_map, two.anomaly_map[2:3], rtol=0, atol=1e-5)


def test_pool_records_strength_and_seed_and_resumes(data, tmp_path):
    model = fit_model(
        FitKeys(NETWORK, size=16, steps=2), data, seed=1, scratch=tmp_path, say=lambda _: None
    )
    keys = PoolKeys(n=3, strength=(0.1, 0.2), steps=4, batch_size=4)
    manifest = make_pool(model, tmp_path / "pool", keys, seed=7, size=(20, 24), say=lambda _: None)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [row["category"] for row in rows] == ["disc"] * 3 + ["ring"] * 3
    assert all(0.1 <= row["strength"] <= 0.2 for row in rows)
    assert len({row["strength"] for row in rows}) == len({row["seed"] for row in rows}) == 6
    files = {row["file"]: (tmp_path / "pool" / row["file"]).read_bytes() for row in rows}
    assert cv2.imread(str(tmp_path / "pool" / rows[0]["file"])).shape == (20, 24, 3)
    (tmp_path / "pool" / rows[4]["file"]).unlink()
    make_pool(model, tmp_path / "pool", keys, seed=7, size=(20, 24), say=lambda _: None)
    assert files == {n: (tmp_path / "pool" / n).read_bytes() for n in files}
    with pytest.raises(UserError, match="another request"):
        make_pool(model, tmp_path / "pool", PoolKeys(n=4), seed=7, say=lambda _: None)
    with pytest.raises(UserError, match="did you mean 'disc'"):
        make_pool(model, tmp_path / "x", keys, seed=7, categories=["disk"], say=lambda _: None)


def test_plans_share_their_noise_across_strengths_and_sizes():
    small = planned_images(PoolKeys(n=3, strength=0.0), ["a"], 1)
    large = planned_images(PoolKeys(n=5, strength=(0.1, 0.5)), ["a"], 1)
    assert [p.seed for p in small] == [p.seed for p in large[:3]]
    assert {p.strength for p in small} == {0.0}


@pytest.mark.parametrize(
    "keys", [{"strength": (0.2, 0.1)}, {"strength": -0.1}, {"form": "euler"}, {"n": 0}]
)
def test_impossible_pools_are_refused(keys):
    with pytest.raises(UserError):
        PoolKeys(**keys)


def test_interrupted_fit_continues_where_it_was(data, tmp_path):
    def states(steps, scratch, save_every):
        scratch.mkdir(exist_ok=True)
        keys = FitKeys(NETWORK, size=16, steps=steps, save_every=save_every)
        return fit_model(keys, data, seed=1, scratch=scratch, say=lambda _: None).state_dict()

    whole = states(4, tmp_path / "whole", 10)
    states(2, tmp_path / "parts", 2)
    rest = states(4, tmp_path / "parts", 2)
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_stages_train_and_draw(data, tmp_path):
    fit, pool = FitKeys(NETWORK, size=16, steps=1), PoolKeys(n=2, steps=2)
    stages = sdas_stages(fit, pool, seed=0)
    run_stages(stages, tmp_path / "stages", data, say=lambda _: None)
    said = []
    run_stages(stages, tmp_path / "stages", data, say=said.append)
    assert said == ["stage sdas: finished before, kept", "stage pool: finished before, kept"]
    lines = (tmp_path / "stages/pool/manifest.jsonl").read_text().splitlines()
    assert len(lines) == 4


def test_guidance_trains_a_classifier_and_needs_two_categories(data, tmp_path):
    made = module(guidance=True, classifier=NETWORK)
    fitted(made, data, 1)
    logits = made.detector.model.classifier.logits
    assert logits.weight.abs().sum() > 0
    keys = PoolKeys(n=1, steps=2, guidance_scale=1.0)
    make_pool(made.detector.model, tmp_path / "pool", keys, seed=0, say=lambda _: None)
    alone = DataModule(Splits(data.train_samples[:4], [], []), image_size=(16, 16), batch_size=4)
    with pytest.raises(UserError, match="at least two categories"):
        module(guidance=True, classifier=NETWORK).prepare(alone)


def test_artefacts_are_sheets_of_growing_strength(data, tmp_path):
    made = module()
    made.prepare(data)
    made.artefacts(tmp_path)
    assert sorted(p.name for p in (tmp_path / "samples").iterdir()) == [
        "s0",
        "s0.1",
        "s0.2",
        "s0.5",
    ]
    assert (tmp_path / "samples/s0.5/contact.png").is_file()


def test_user_mistakes_are_named():
    with pytest.raises(UserError, match="multiples of"):
        module(size=17)
    with pytest.raises(UserError, match="did you mean 'window'"):
        module(score={"windw": 5})
    with pytest.raises(UserError, match="odd number"):
        module(score={"window": 4})
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        module(network={"preset": "tinny"})
    with pytest.raises(UserError, match="does not exist"):
        module(weights="nowhere.pt")


def test_every_key_of_the_configuration_is_taken():
    from pathlib import Path

    path = Path(__file__).parents[3] / "conf/model/sdas.yaml"
    keys = yaml.safe_load(path.read_text())["model"]
    for name in ("_target_", "name"):
        keys.pop(name)
    keys["network"]["preset"] = "tiny"  # the paper's would fill the memory
    made = SdasModule(backbone=None, synthesis=None, image_size=(64, 64), seed=0, **keys)
    assert isinstance(made.detector, SdasDetector)
    assert made.requirements(10).size_multiple == 8


def test_a_full_picture_is_first_brought_to_the_size_of_training(data):
    """16 px from the file and from the working size differ: training saw the second."""
    made = module()
    made.prepare(data)
    detector = made.detector.eval()
    full = torch.rand(1, 3, 150, 90, generator=torch.Generator().manual_seed(0))
    working = working_picture(full, detector.image_size)
    with torch.inference_mode():
        assert torch.allclose(detector(full).score, detector(working).score, atol=1e-6)
