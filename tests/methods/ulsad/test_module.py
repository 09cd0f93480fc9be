"""Training, calibration and inference of the whole method, narrow."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.datamodule import DataModule, Splits
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.ulsad.detector import UlsadDetector
from adbench.methods.ulsad.pictures import spread_positions


def first_batches(datamodule):
    return list(datamodule.train_batches(4))


def step(module, batch, number=0):
    optimiser = module.configure_optimizers()
    result = module.training_step(batch, number)
    optimiser.zero_grad()
    result["loss"].backward()
    optimiser.step()
    return {name: float(value.detach()) for name, value in result.items()}


def test_loss_falls_and_its_parts_add_up(build, datamodule):
    module = build(learning_rate=5e-3)
    module.prepare(datamodule)
    module.train()
    batch, optimiser = first_batches(datamodule)[0], module.configure_optimizers()
    history = []
    for number in range(6):
        result = module.training_step(batch, number)
        optimiser.zero_grad()
        result["loss"].backward()
        optimiser.step()
        history.append(float(result["loss"].detach()))
        parts = sum(float(result[name]) for name in ("local", "global", "local_global"))
        assert history[-1] == pytest.approx(parts, rel=1e-5)
        assert 0 < float(result["attention_peak"]) <= 1
    assert history[-1] < history[0]


@pytest.fixture(scope="module")
def uncached(build, datamodule):
    module = build(cache={"features": False, "attention": False})
    module.prepare(datamodule)
    return step(module.train(), first_batches(datamodule)[0])


@pytest.mark.parametrize(
    ("cache", "tolerance"),
    [
        ({"features": True, "attention": True, "dtype": "float32"}, 1e-5),
        ({"features": True, "attention": False, "dtype": "float32"}, 1e-5),
        ({"features": True, "attention": True, "max_memory": 0}, 2e-3),
    ],
)
def test_cached_losses_equal_uncached(build, datamodule, uncached, cache, tolerance):
    module = build(cache=cache)
    module.prepare(datamodule)
    cached = step(module.train(), first_batches(datamodule)[0])
    for name, value in uncached.items():
        assert cached[name] == pytest.approx(value, rel=tolerance), name


def test_training_leaves_the_backbone_alone(build, datamodule):
    module = build(learning_rate=1e-2)
    module.prepare(datamodule)
    kept = {n: v.clone() for n, v in module.detector.backbone.state_dict().items()}
    pooling = {n: v.clone() for n, v in module.detector.pooling.state_dict().items()}
    for number, batch in enumerate(first_batches(datamodule)):
        step(module.train(), batch, number)
    for name, value in module.detector.backbone.state_dict().items():
        assert torch.equal(value, kept[name]), name
    for name, value in module.detector.pooling.state_dict().items():
        assert torch.equal(value, pooling[name]), name


def test_a_last_batch_of_one_image_is_filled_up_the_same_way_each_time(build, datamodule):
    results = []
    for _ in range(2):
        module = build()
        module.prepare(datamodule)
        results.append(step(module.train(), first_batches(datamodule)[-1], 2))
    assert len(first_batches(datamodule)[-1]) == 1
    assert results[0] == results[1]
    assert np.isfinite(results[0]["loss"])


@pytest.mark.parametrize(
    ("loss", "parts", "maps"),
    [
        ({"global_term": "none", "local_global": False}, {"local"}, {"local"}),
        ({"global_term": "direct", "local_global": False}, {"local", "global"}, None),
        ({"global_term": "attention", "local_global": False}, {"local", "global"}, None),
        ({"global_term": "direct"}, {"local", "global", "local_global"}, None),
        ({}, {"local", "global", "local_global"}, None),
        ({"lambda_l": 0.0, "lambda_g": 0.0}, {"local", "global", "local_global"}, None),
        ({"local": False}, {"global", "local_global"}, {"global"}),
    ],
)
def test_every_row_of_the_ablation_trains_and_predicts(build, datamodule, loss, parts, maps):
    module = build(loss=loss)
    module.prepare(datamodule)
    found = step(module.train(), first_batches(datamodule)[0])
    assert set(found) - {"loss", "attention_peak"} == parts
    module.eval()
    module.finish(datamodule)
    image = torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        named, prediction = module.detector.named_maps(image), module.detector(image)
    assert set(named) == (maps or {"local", "global"})
    mean = torch.stack(list(named.values())).mean(0)
    torch.testing.assert_close(prediction.anomaly_map, mean, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(build, datamodule):
    module = build()
    module.prepare(datamodule)
    step(module.train(), first_batches(datamodule)[0])
    module.eval()
    module.finish(datamodule)
    return module


def test_held_out_normals_set_the_quantiles(trained, datamodule):
    detector = trained.detector
    with torch.no_grad():
        images = torch.cat([batch.image for batch in datamodule.val_batches(2)])
        raw = detector.raw_maps(images)
    for row, name in enumerate(("local", "global")):
        wanted = np.quantile(raw[name].numpy().astype(np.float64), [0.9, 0.995])
        np.testing.assert_allclose(detector.quantile[row].numpy(), wanted, rtol=1e-4)
    train = {sample.image for sample in datamodule.train_samples}
    assert train.isdisjoint(sample.image for sample in datamodule.val_samples)


def test_without_held_out_normals_training_images_are_used_and_said_so(trained, datamodule):
    splits = Splits(datamodule.train_samples[:2], [], [])
    kept = trained.detector.quantile.clone()
    with pytest.warns(UserWarning, match="no held-out normals"):
        trained.finish(DataModule(splits, image_size=(256, 256), batch_size=2))
    trained.detector.quantile.copy_(kept)


@torch.no_grad()
def test_score_does_not_depend_on_the_batch(trained):
    image = torch.rand(5, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    together = trained.detector(image)
    for row in (0, 4):
        alone = trained.detector(image[row : row + 1])
        torch.testing.assert_close(alone.score, together.score[row : row + 1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            alone.anomaly_map, together.anomaly_map[row : row + 1], atol=1e-5, rtol=1e-5
        )


@torch.no_grad()
def test_any_size_comes_back_and_the_score_is_the_maximum(trained):
    other = trained.detector(torch.rand(1, 3, 300, 220))
    assert other.anomaly_map.shape == (1, 1, 300, 220)
    same = trained.detector(torch.rand(2, 3, 256, 256))
    assert torch.equal(same.score, same.anomaly_map.amax((1, 2, 3)))


@torch.no_grad()
def test_saved_detector_predicts_the_same(trained, tmp_path):
    save_detector(trained.detector, tmp_path)
    loaded = load_detector(tmp_path)
    image = torch.rand(2, 3, 256, 256)
    assert isinstance(loaded, UlsadDetector)
    assert torch.equal(loaded(image).anomaly_map, trained.detector(image).anomaly_map)


@torch.no_grad()
@pytest.mark.parametrize("branches", ["both", "local"])
def test_a_detector_without_quantiles_says_so(build, datamodule, branches):
    loss = {} if branches == "both" else {"global_term": "none", "local_global": False}
    module = build(loss=loss)
    image = torch.rand(1, 3, 256, 256)
    with pytest.raises(UserError, match="never calibrated"):
        module.detector(image)
    other = build(loss=loss)
    other.load_state_dict(module.state_dict())
    with pytest.raises(UserError, match="never calibrated"):
        other.detector(image)
    module.prepare(datamodule)
    module.eval()
    module.refresh()
    found = module.detector(image)
    other.eval().load_state_dict(module.state_dict())
    assert torch.equal(other.detector(image).score, found.score)


@torch.no_grad()
def test_what_looks_on_the_way_is_what_is_saved(build, datamodule):
    module = build()
    module.prepare(datamodule)
    module.eval()
    module.refresh()
    image = torch.rand(2, 3, 256, 256)
    looked = module.detector(image)
    module.finish(datamodule)
    assert torch.equal(module.detector(image).anomaly_map, looked.anomaly_map)


@torch.no_grad()
@pytest.mark.parametrize("source", ["features", "autoencoder"])
def test_attention_of_one_position_is_a_distribution(trained, source):
    image = torch.rand(2, 3, 256, 256)
    weights = trained.detector.attention_map(image, 4, 7, source=source)
    assert weights.shape == (2, 1, 32, 32)
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(2))
    u = trained.detector.features(image)
    asking = u if source == "features" else trained.detector.autoencoder(image)
    logits = torch.einsum("bcp,bc->bp", u.flatten(2), asking[:, :, 4, 7]) / math.sqrt(u.shape[1])
    torch.testing.assert_close(weights.flatten(1), logits.softmax(1))


@torch.no_grad()
def test_attention_is_drawn_into_the_run_folder(trained, build, datamodule, tmp_path):
    trained.artefacts(tmp_path)
    drawn = cv2.imread(str(tmp_path / "attention.png"))
    assert drawn.shape == (2 * 192, 5 * 192, 3)  # features and autoencoder; image and four maps
    local = build(loss={"global_term": "none", "local_global": False})
    local.prepare(datamodule)
    local.eval().artefacts(tmp_path)
    assert cv2.imread(str(tmp_path / "attention.png")).shape == (192, 5 * 192, 3)
    with pytest.raises(UserError, match="global_term=none"):
        local.detector.attention_map(torch.rand(1, 3, 256, 256), 0, 0, source="autoencoder")


def test_query_positions_are_of_different_things():
    grid = torch.zeros(1, 3, 4, 4)
    grid[0, 0] = 1
    grid[0, :, 1, 2] = torch.tensor([0.0, 1.0, 0.0])
    grid[0, :, 3, 0] = torch.tensor([0.0, 0.0, 1.0])
    assert set(spread_positions(grid, 3)[:2]) == {(1, 2), (3, 0)}
    assert len(set(spread_positions(grid, 5))) == 5


@torch.no_grad()
def test_detector_can_be_traced(trained):
    image = torch.rand(2, 3, 256, 256)
    traced = torch.jit.trace(trained.detector, image, strict=False)
    torch.testing.assert_close(traced(image)[1], trained.detector(image).anomaly_map)


def test_requirements_state_the_cache_of_the_notes(build):
    # 128 channels at 32 x 32 and 256 at 16 x 16 in half precision: 0.375 MiB an image
    module = build(channels=384, loss={"global_term": "direct"})
    needs = module.requirements(200)
    assert needs.memory_bytes - module.requirements(0).memory_bytes == 75 << 20
    assert (needs.size_multiple, needs.min_size, needs.min_batch) == (32, 256, 4)


def test_wrong_backbones_are_refused(build):
    with pytest.raises(UserError, match="stride 8"):
        UlsadDetector(FeatureExtractor("resnet18", ["layer1", "layer2"]), (256, 256), 24)
    with pytest.raises(UserError, match="did you mean 'fused'"):
        build(attention_kernel="fusd")
