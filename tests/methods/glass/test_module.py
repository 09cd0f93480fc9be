"""Training and inference as the rest of adbench sees them."""

import copy

import pytest
import torch

from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector, seeded_generator
from adbench.methods.glass.module import _RECALIBRATION, GlassModule
from adbench.methods.glass.plain_step import StepInputs, plain_losses


def built(extractor, squares, *, size=64, **keys):
    torch.manual_seed(0)
    settings = {"embed": 24, "hidden": 16, "hypothesis": "manifold"} | keys
    module = GlassModule(
        backbone=extractor, synthesis=squares, image_size=(size, size), seed=0, **settings
    )
    optimisers = module.configure_optimizers()
    module.optimizers = lambda: optimisers
    return module.train()


def trained(module, normals, steps=3):
    module.prepare(normals)
    module.on_train_epoch_start()
    parts = [module.training_step(normals.batch([0, 3]), step) for step in range(steps)]
    module.eval()
    module.refresh()
    module.finish(normals)
    return parts


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere", "auto", "opposite"])
def test_every_hypothesis_trains_and_writes_what_it_judged(
    extractor, squares, normals, hypothesis, tmp_path
):
    module = built(extractor, squares, hypothesis=hypothesis)
    parts = trained(module, normals)
    assert squares.prepared
    assert all(torch.isfinite(value) for row in parts for value in row.values())
    assert {"loss", "normal", "gas", "gas_first", "clamped", "las"} == set(parts[0])
    module.artefacts(tmp_path)
    assert (tmp_path / "hypothesis.png").is_file() == (hypothesis in ("auto", "opposite"))
    assert module.spherical == (hypothesis in ("hypersphere", "opposite"))


def test_loss_falls(extractor, squares, normals):
    module = built(extractor, squares, optimiser={"adaptor_lr": 1e-3, "discriminator_lr": 1e-2})
    parts = trained(module, normals, steps=40)
    assert float(parts[-1]["loss"]) < 0.7 * float(parts[0]["loss"])


@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_the_image_score_is_the_maximum_of_what_the_key_names(extractor, squares, normals, size):
    found = {}
    for score in ("grid", "map", "top"):
        module = built(extractor, squares, score=score)
        trained(module, normals, steps=3)
        image = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
        found[score] = module.detector.eval()(image)
    assert torch.equal(found["grid"].anomaly_map, found["map"].anomaly_map)
    assert (found["map"].score < found["grid"].score).all()
    assert (found["top"].score <= found["grid"].score).all()
    if size == module.detector.image_size:
        assert torch.equal(found["map"].score, found["map"].anomaly_map.amax((1, 2, 3)))
    with pytest.raises(UserError, match=r"model\.score=maps"):
        built(extractor, squares, score="maps")


def test_top_is_the_mean_of_the_largest_hundredth(extractor, squares):
    detector = built(extractor, squares, score="top").detector
    grid = torch.arange(400.0).view(2, 1, 10, 20)
    found = detector._image_score(grid, grid)
    assert found.tolist() == [(198 + 199) / 2, (398 + 399) / 2]
    few = torch.arange(32.0).view(2, 1, 4, 4)
    assert detector._image_score(few, few).tolist() == [15.0, 31.0]


def test_cosine_rates_fall_from_whole_to_zero(extractor, squares, normals):
    module = built(extractor, squares, optimiser={"schedule": "cosine"})
    constant = built(extractor, squares).optimiser
    for progress, factor in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        assert module.optimiser.factor(progress) == pytest.approx(factor)
        assert constant.factor(progress) == 1.0
    before = [value.clone() for value in module.head.parameters()]
    module.progress = lambda: 1.0
    trained(module, normals, steps=2)
    for value, old in zip(module.head.parameters(), before, strict=True):
        assert torch.equal(value, old)
    module.progress = lambda: 0.5
    trained(module, normals, steps=2)
    assert not torch.equal(next(module.head.parameters()), before[0])


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
def test_plain_and_fast_train_to_the_same_detector(extractor, squares, normals, hypothesis):
    detectors = []
    for plain in (False, True):
        gas = {"as_published": plain}
        module = built(extractor, squares, hypothesis=hypothesis, gas=gas, bn_stats="code")
        trained(module, normals)
        detectors.append(module.detector)
    image = normals.images[:2]
    ours, theirs = (detector(image) for detector in detectors)
    # Adam turns the rounding in the biases' gradients of the plain form into steps
    assert torch.allclose(ours.anomaly_map, theirs.anomaly_map, atol=5e-3)


@pytest.mark.parametrize(
    ("las", "gas"),
    [
        (True, {"noise": False, "ascent": False, "project": False}),
        (False, {"noise": True, "ascent": False, "project": False}),
        (True, {"noise": True, "ascent": False, "project": False}),
        (True, {"noise": True, "ascent": True, "project": False}),
        (True, {"noise": True, "ascent": True, "project": True}),
    ],
    ids=["las", "noise", "both", "ascent", "projection"],
)
def test_rows_of_table_4_are_switches(extractor, squares, normals, las, gas):
    module = built(extractor, squares, las=las, gas=gas)
    parts = trained(module, normals, steps=1)[0]
    assert ("las" in parts) == las
    assert ("gas" in parts) == gas["noise"]
    assert module.requirements(5).uses_synthesis == las


def test_released_radii_never_clamp_and_the_papers_always_do(extractor, squares, normals):
    # at C = 1536 the noise has norm 0.588 +- 0.011
    for radii, share in (((0.5, 1.0), 0.0), ((1.0, 2.0), 1.0)):
        gas = {"r1": radii[0], "r2": radii[1]}
        module = built(extractor, squares, embed=1536, hidden=32, gas=gas)
        assert float(trained(module, normals, steps=1)[0]["clamped"]) == share


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("adaptor", [True, False])
def test_folded_detector_equals_the_head_in_eval_mode(extractor, squares, normals, form, adaptor):
    module = built(extractor, squares, aggregation=form, adaptor=adaptor)
    trained(module, normals)
    with torch.no_grad():
        rows = module.features(normals.images).rows()
        wanted = module.head.discriminator(module.head.adapted(rows)).view(5, 1, 8, 8)
        found = module.detector.logits(module.detector.maps(normals.images))
        prediction = module.detector(normals.images)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert torch.allclose(prediction.score, torch.sigmoid(wanted).amax((1, 2, 3)), atol=1e-5)
    assert prediction.anomaly_map.shape == (5, 1, 64, 64)


def test_score_does_not_depend_on_the_batch(extractor, squares, normals):
    module = built(extractor, squares)
    trained(module, normals)
    with torch.no_grad():
        whole = module.detector(normals.images)
        alone = module.detector(normals.images[3:4])
        back = module.detector(normals.images.flip(0))
    assert torch.allclose(whole.score[3:4], alone.score, atol=1e-5)
    assert torch.allclose(whole.anomaly_map, back.anomaly_map.flip(0), atol=1e-5)


def test_saved_detector_is_the_same(extractor, squares, normals, tmp_path):
    module = built(extractor, squares)
    trained(module, normals)
    save_detector(module.detector, tmp_path)
    loaded = load_detector(tmp_path)
    image = torch.rand(1, 3, 80, 50)
    with torch.no_grad():
        ours, theirs = module.detector(image), loaded(image)
    assert torch.equal(ours.anomaly_map, theirs.anomaly_map)
    assert theirs.anomaly_map.shape == (1, 1, 80, 50)


def test_recalibrated_statistics_are_those_of_all_normals_and_their_twins(
    extractor, squares, normals
):
    module = built(extractor, squares, bn_stats="recalibrate", gas={"sigma": 0.0, "ascent": False})
    trained(module, normals, steps=1)
    with torch.no_grad():
        rows = module.features(normals.images).rows()
        hidden = module.head.discriminator.hidden(module.head.adapted(rows))
    norm = module.head.discriminator.norm
    assert torch.allclose(norm.running_mean, hidden.mean(0), atol=1e-5)


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
@pytest.mark.parametrize("radii", [(0.5, 1.0), (1.0, 2.0), (30.0, 60.0)])
@pytest.mark.parametrize("noise", [True, False])
def test_recalibrated_statistics_are_those_of_a_training_step(
    extractor, squares, normals, hypothesis, radii, noise
):
    gas = {"r1": radii[0], "r2": radii[1], "noise": noise, "sigma": 0.2}
    module = built(extractor, squares, hypothesis=hypothesis, gas=gas, las=False)
    normals.batch_size = len(normals.images)
    trained(module, normals, steps=2)
    head = copy.deepcopy(module.head)
    everyone = module.features(normals.images)
    noise = module._noise(everyone, seeded_generator("cpu", 0, _RECALIBRATION))
    inputs = StepInputs(noise, None, module._present_centre(normals))
    keys = module.step_keys._replace(every_pass=False)
    head.discriminator.norm.momentum = 1.0  # the last pass alone
    plain_losses(head.train(), everyone.rows(), None, inputs, keys)
    wanted, found = head.discriminator.norm, module.head.discriminator.norm
    torch.testing.assert_close(found.running_var, wanted.running_var, rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(found.running_mean, wanted.running_mean, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("hypothesis", ["manifold", "hypersphere"])
@pytest.mark.parametrize("bn_stats", ["code", "once", "recalibrate"])
@pytest.mark.parametrize("plain", [True, False])
def test_what_looks_on_the_way_is_what_is_saved(
    extractor, squares, normals, hypothesis, bn_stats, plain
):
    def new():
        gas = {"steps": 3, "as_published": plain}
        return built(extractor, squares, hypothesis=hypothesis, bn_stats=bn_stats, gas=gas)

    module = new()
    module.prepare(normals)
    for epoch in range(2):
        module.on_train_epoch_start()
        module.training_step(normals.batch([0, 3]), epoch)
    module.refresh()
    looked = module.detector(normals.images)
    module.finish(normals)
    assert torch.equal(module.detector(normals.images).anomaly_map, looked.anomaly_map)
    chosen = new()  # a state that was stored and comes back counts by its weights alone
    chosen.prepare(normals)
    chosen.load_state_dict(module.state_dict())
    chosen.finish(normals)
    assert torch.equal(chosen.detector(normals.images).anomaly_map, looked.anomaly_map)


def test_equal_seeds_give_equal_steps(extractor, squares, normals):
    states = []
    for _ in range(2):
        module = built(extractor, squares)
        trained(module, normals)
        states.append(copy.deepcopy(module.head.state_dict()))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_impossible_settings_are_refused(extractor, squares):
    with pytest.raises(UserError, match="all false"):
        built(extractor, squares, las=False, gas={"noise": False, "ascent": False})
    with pytest.raises(UserError, match="did you mean 'manifold'"):
        built(extractor, squares, hypothesis="manifolt")
