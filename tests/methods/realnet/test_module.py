"""Training and inference as a whole, on ten small images."""

from __future__ import annotations

import json

import pytest
import torch

from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.realnet.module import RealNetModule
from adbench.runs.stages import run_stages

SIZE = (64, 64)
SMALL = {"blocks": 1, "mult": [1, 2, 2], "head_channels": 32}
AFS = {"dims": [32, 32, 32], "batches": 2, "batch": 4}


def build(backbone, synthesis, **keys):
    torch.manual_seed(0)
    keys = {"afs": AFS, "recon": SMALL, "learning_rate": 1e-3, **keys}
    module = RealNetModule(backbone=backbone, synthesis=synthesis, image_size=SIZE, seed=3, **keys)
    module.train()
    return module


def steps(module, datamodule, count):
    optimiser = module.configure_optimizers()
    losses = []
    for number in range(count):
        for batch in datamodule.train_batches(5):
            out = module.training_step(batch, number)
            optimiser.zero_grad()
            out["loss"].backward()
            optimiser.step()
            losses.append(out["loss"].item())
    return losses


@pytest.fixture(scope="module")
def trained(backbone, datamodule, synthesis):
    module = build(backbone, synthesis)
    module.prepare(datamodule)
    module.losses = steps(module, datamodule, 18)
    module.eval()
    module.refresh()
    module.finish(datamodule)
    return module


def test_loss_falls(trained):
    assert sum(trained.losses[-4:]) < 0.5 * sum(trained.losses[:4])


def test_fast_step_equals_plain(backbone, datamodule, synthesis):
    fast, plain = build(backbone, synthesis), build(backbone, synthesis, as_published=True)
    fast.prepare(datamodule)
    plain.prepare(datamodule)
    for name, buffer in fast.detector.selected.named_buffers():
        getattr(plain.detector.selected, name).copy_(buffer)  # plain draws per block
    ours, theirs = steps(fast, datamodule, 2), steps(plain, datamodule, 2)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_plain_selection_draws_per_block_and_agrees_mostly(backbone, datamodule, synthesis):
    keys = {"dims": [32, 32, 32], "batches": 8, "batch": 5}
    fast, plain = (build(backbone, synthesis, afs=keys, as_published=p) for p in (False, True))
    fast.prepare(datamodule)
    plain.prepare(datamodule)
    for number in range(3):
        a, b = (
            set(m.detector.selected.get_buffer(f"index_{number}_0").tolist()) for m in (fast, plain)
        )
        assert len(a & b) > 24


def test_the_range_of_each_image_counts_in_the_plain_form_too(backbone, datamodule, synthesis):
    losses = {}
    for norm in ("batch", "image"):
        keys = {"dims": [32, 32, 32], "batches": 1, "batch": 5, "norm": norm}
        module = build(backbone, synthesis, afs=keys, as_published=True)
        module._synthesizer().prepare(datamodule)
        losses[norm] = module._chooser(datamodule).choices()[0].losses
    assert losses["batch"] != losses["image"]


def test_normal_draws_equal_their_originals(backbone, datamodule, synthesis):
    module = build(backbone, synthesis)
    module.prepare(datamodule)
    batch = next(iter(datamodule.train_batches(8)))
    damaged = module._damaged(batch, module.generator(0))
    features, target = module._features(batch, damaged)
    stayed = [row for row in range(8) if row not in damaged.position.tolist()]
    assert 0 < len(stayed) < 8
    for phi, normal in zip(features, target, strict=True):
        assert torch.equal(phi[stayed], normal[stayed])
        assert not torch.equal(phi[damaged.position], normal[damaged.position])


def test_half_precision_cache_rounds_only(backbone, datamodule, synthesis):
    batch = next(iter(datamodule.train_batches(4)))
    found = []
    for keys in ({}, {"dtype": "float16"}, {"max_memory": 0}, {"max_memory": 1}):
        module = build(backbone, synthesis, cache=keys)
        module.prepare(datamodule)
        found.append(module._normal(batch.index, batch.image))
        assert (module._normal.kept is None) == (keys.get("max_memory") == 0)
    for exact, half, anew, mapped in zip(*found, strict=True):
        assert torch.allclose(exact, half, rtol=1e-3, atol=1e-6)
        assert torch.equal(exact, mapped)
        assert torch.allclose(exact, anew, rtol=1e-5, atol=1e-6)


def test_score_does_not_depend_on_the_batch(trained, datamodule):
    image = next(iter(datamodule.train_batches(8))).image
    order = torch.tensor([3, 1, 7, 0, 5, 2, 6, 4])
    with torch.inference_mode():
        whole = trained.detector(image)
        turned = trained.detector(image[order])
        alone = torch.cat([trained.detector(one[None]).score for one in image])
    assert torch.allclose(alone, whole.score, atol=1e-5)
    assert torch.allclose(turned.score, whole.score[order], atol=1e-5)
    assert torch.allclose(turned.anomaly_map, whole.anomaly_map[order], atol=1e-5)


def test_any_size_in_and_out(trained):
    with torch.inference_mode():
        prediction = trained.detector(torch.rand(2, 3, 50, 90))
    assert prediction.anomaly_map.shape == (2, 1, 50, 90)
    assert prediction.score.shape == (2,)
    assert prediction.score.dtype == prediction.anomaly_map.dtype == torch.float32


def test_saved_detector_repeats_its_predictions(trained, tmp_path):
    image = torch.rand(2, 3, *SIZE)
    save_detector(trained.detector, tmp_path)
    loaded = load_detector(tmp_path)
    with torch.inference_mode():
        one, two = trained.detector(image), loaded(image)
    assert torch.equal(one.score, two.score)
    assert torch.equal(one.anomaly_map, two.anomaly_map)


def test_forward_changes_no_state(trained):
    before = {k: v.clone() for k, v in trained.detector.state_dict().items()}
    with torch.inference_mode():
        trained.detector(torch.rand(2, 3, *SIZE))
    for name, value in trained.detector.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.filterwarnings("ignore")
def test_traced_detector_follows_other_images(trained):
    detector = trained.detector
    with torch.no_grad():
        traced = torch.jit.trace(detector, torch.rand(1, 3, *SIZE), check_trace=False)
        image = torch.rand(1, 3, *SIZE)
        assert torch.allclose(traced(image)[0], detector(image).score, atol=1e-5)


def test_logit_map_orders_pixels_like_the_probability(trained):
    image = torch.rand(1, 3, *SIZE)
    with torch.inference_mode():
        probability = trained.detector(image).anomaly_map.flatten()
        logits = trained.detector._image_logits(image)
    difference = (logits[:, 1] - logits[:, 0]).flatten()
    ordered = probability[difference.argsort()]
    assert (ordered.diff() >= -1e-6).all()


def test_statistics_settle_on_the_whole_training_set(trained, datamodule):
    selection = trained.detector.residuals
    settled = selection.running_mean.clone()
    norm = trained.detector.discriminator.norm
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    for buffer in (selection.running_mean, norm.running_mean, norm.running_var):
        buffer.fill_(7.0)  # as a last batch of one image would leave them
    trained.finish(datamodule)
    assert torch.equal(selection.running_mean, settled)
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, variance)


def test_statistics_are_settled_once_for_the_same_weights(trained, datamodule, monkeypatch):
    passes = []
    measured = type(trained)._measured
    monkeypatch.setattr(type(trained), "_measured", lambda *a: passes.append(1) or measured(*a))
    trained.finish(datamodule)
    trained.refresh()
    before = len(passes)
    trained.refresh()
    assert len(passes) == before
    with torch.no_grad():
        next(trained.detector.discriminator.parameters()).mul_(1.0)
    trained.refresh()
    assert len(passes) == before + 2  # residuals, then the discriminator


@torch.no_grad()
def test_the_discriminators_statistics_are_those_of_all_images(trained, datamodule):
    detector = trained.detector.eval()
    seen = []
    handle = detector.discriminator.entry.register_forward_hook(lambda *a: seen.append(a[-1]))
    for pair in trained._settling_images(datamodule):
        for image in pair:
            detector(image)
    handle.remove()
    maps = torch.cat(seen).transpose(0, 1).flatten(1)
    norm = detector.discriminator.norm
    torch.testing.assert_close(norm.running_mean, maps.mean(1), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(norm.running_var, maps.var(1), rtol=1e-2, atol=1e-6)


def test_what_looks_on_the_way_is_what_is_saved(backbone, datamodule, synthesis):
    module = build(backbone, synthesis)
    module.prepare(datamodule)
    steps(module, datamodule, 1)
    module.eval()
    module.refresh()
    image = datamodule.train_images(torch.arange(3))
    with torch.no_grad():
        looked = module.detector(image)
    chosen = build(backbone, synthesis).eval()
    chosen.prepare(datamodule)
    chosen.load_state_dict(module.state_dict())
    chosen.finish(datamodule)
    with torch.no_grad():
        found = chosen.detector(image)
    assert torch.equal(found.anomaly_map, looked.anomaly_map)


def test_stage_is_written_and_read_back(backbone, datamodule, synthesis, tmp_path):
    module = build(backbone, synthesis)
    said = []
    run_stages(module.stages(), tmp_path, datamodule, say=said.append)
    assert (tmp_path / "afs" / "chosen.png").is_file()
    written = json.loads((tmp_path / "afs" / "choices.json").read_text())
    assert [len(choice["index"]) for choice in written] == [32, 32, 32]
    assert any("keeps 32 of 64" in line for line in said)
    again = []
    run_stages(module.stages(), tmp_path, datamodule, say=again.append)
    assert again == ["stage afs: finished before, kept"]

    fresh, other = build(backbone, synthesis), build(backbone, synthesis)
    fresh.stage_folder = tmp_path
    fresh.prepare(datamodule)
    other.prepare(datamodule)  # without the folder: the selection is repeated
    for number, choice in enumerate(written):
        name = f"index_{number}_0"
        assert getattr(fresh.detector.selected, name).tolist() == choice["index"]
        assert getattr(other.detector.selected, name).tolist() == choice["index"]


def test_all_channels_kept_warns_and_writes(backbone, datamodule, synthesis, tmp_path):
    module = build(backbone, synthesis, afs={"dims": [64, 128, 256], "batches": 1, "batch": 2})
    said = []
    run_stages(module.stages(), tmp_path, datamodule, say=said.append)
    assert any(line.startswith("WARNING") for line in said)
    assert json.loads((tmp_path / "afs" / "choices.json").read_text()) == []


@pytest.mark.parametrize("arch", ["A", "B", "C"])
@pytest.mark.parametrize("mode", ["rdr", "rlpr"])
def test_ablations_train(backbone, datamodule, synthesis, arch, mode):
    rrs = {"A": {"mode": "none"}, "B": {"mode": "mean", "ratio": 0.5}, "C": {"mode": "max"}}[arch]
    keys = {"arch": arch, "afs": {**AFS, "mode": mode}, "rrs": rrs, "loss": {"reduction": "sum"}}
    module = build(backbone, synthesis, **keys)
    module.prepare(datamodule)
    assert all(torch.isfinite(torch.tensor(steps(module, datamodule, 1))))
    module.finish(datamodule)


def test_what_it_requires(backbone, synthesis):
    requirements = build(backbone, synthesis).requirements(10)
    assert requirements.size_multiple == 64  # stride 16, halved twice
    assert requirements.uses_synthesis
    ten, none = (build(backbone, synthesis).requirements(n).memory_bytes for n in (10, 0))
    assert ten - none == 10 * 4 * 32 * (16 * 16 + 8 * 8 + 4 * 4)


def test_bad_requests_are_refused(backbone, synthesis):
    for keys, message in (
        ({"arch": "D"}, "model.arch=D"),
        ({"normal_share": 1.0}, "normal_share"),
        ({"rrs": {"keep": 3}}, "no key 'keep' in model.rrs"),
    ):
        with pytest.raises(UserError, match=message):
            build(backbone, synthesis, **keys)
    with pytest.raises(UserError, match="set synthesis=draem"):
        build(backbone, None)._synthesizer()
