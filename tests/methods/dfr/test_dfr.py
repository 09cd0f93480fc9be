"""DFR: regions, latent width, training and inference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.datamodule import DataModule, Splits
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.dfr.autoencoder import PointwiseAutoencoder
from adbench.methods.dfr.latent import latent_width
from adbench.methods.dfr.module import DfrModule
from adbench.methods.dfr.regions import regional_features, upsampled

SIZE = (64, 64)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return FeatureExtractor(name="resnet18", layers=["layer2", "layer3"])


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("normals"), np.random.default_rng(0)
    samples = []
    for number in range(9):
        small = rng.integers(60, 160, (5, 5, 3), dtype=np.uint8)
        path = folder / f"{number:03d}.png"
        cv2.imwrite(str(path), cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))
        samples.append(Sample(path, 0, "thing", "good", "train", root=folder))
    return DataModule(Splits(samples, [], []), image_size=SIZE, batch_size=4)


def build(backbone, **keys):
    torch.manual_seed(0)
    return DfrModule(backbone=backbone, synthesis=None, image_size=SIZE, seed=0, **keys)


@pytest.mark.parametrize(("patch", "stride"), [(4, 4), (8, 4), (8, 8)])
def test_regions_equal_resize_pad_and_mean(patch, stride):
    maps = [noise(2, 3, 8, 6), noise(2, 4, 4, 3, seed=1)]
    slow = []
    for x in maps:
        full = F.interpolate(x, size=(64, 48), mode="bilinear", align_corners=True)
        padding = (patch - stride) // 2
        slow.append(F.avg_pool2d(F.pad(full, (padding,) * 4, mode="replicate"), patch, stride))
    found = regional_features(maps, (64, 48), patch, stride)
    torch.testing.assert_close(found, torch.cat(slow, 1), atol=1e-12, rtol=0)


def test_upsampling_aligns_corners():
    x = noise(2, 1, 6, 5)
    wanted = F.interpolate(x, size=(48, 40), mode="bilinear", align_corners=True)
    torch.testing.assert_close(upsampled(x, (48, 40)), wanted, atol=1e-12, rtol=0)


def test_latent_width_equals_scikit_learn():
    from sklearn.decomposition import PCA

    x = noise(200, 12) * torch.logspace(0, -2, 12, dtype=torch.float64) + 5
    for share in (0.5, 0.9, 0.99):
        wanted = PCA(n_components=share, svd_solver="full").fit(x.numpy()).n_components_
        assert latent_width(x, share) == wanted


def test_latent_width_closed_forms():
    two = torch.cat([noise(50, 2), torch.zeros(50, 6, dtype=torch.float64)], 1)
    assert latent_width(two, 0.999) == 2
    assert latent_width(torch.ones(5, 3)) == 1


def test_autoencoder_sees_one_position_at_a_time():
    net = PointwiseAutoencoder(12, 3).double().eval()
    widths = [layer.weight.shape[0] for layer in net.layers if isinstance(layer, torch.nn.Conv2d)]
    assert widths == [9, 6, 3, 6, 9, 12]
    x = noise(1, 12, 4, 4)
    shuffled = x.flip(3)
    torch.testing.assert_close(net(shuffled), net(x).flip(3))


def test_latent_follows_the_data_and_loss_falls(backbone, datamodule):
    module = build(backbone, learning_rate=1e-2)
    module.prepare(datamodule)
    latent = module.detector.config["latent"]
    assert 1 <= latent < 384
    batch, optimiser = next(datamodule.train_batches(4)), module.configure_optimizers()
    losses = []
    for number in range(8):
        loss = module.training_step(batch, number)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_prepare_repeats_itself(backbone, datamodule):
    states = []
    for _ in range(2):
        module = build(backbone)
        module.prepare(datamodule)
        states.append(module.detector.autoencoder.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_cached_loss_equals_uncached(backbone, datamodule):
    batch, losses = next(datamodule.train_batches(4)), []
    for cache in ({"features": False}, {"dtype": "float32"}, {"max_memory": 0}):
        module = build(backbone, latent=16, cache=cache)
        module.prepare(datamodule)
        losses.append(float(module.training_step(batch, 0)["loss"].detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] == pytest.approx(losses[0], rel=2e-3)


@torch.no_grad()
@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_detector_keeps_its_promises(backbone, datamodule, tmp_path, sigma):
    module = build(backbone, sigma=sigma)
    module.prepare(datamodule)
    module.eval()
    image = torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    found = module.detector(image)
    assert torch.equal(found.score, found.anomaly_map.amax((1, 2, 3)))
    alone = module.detector(image[3:4])
    torch.testing.assert_close(alone.score, found.score[3:4], atol=1e-5, rtol=1e-5)
    assert module.detector(torch.rand(1, 3, 90, 50)).anomaly_map.shape == (1, 1, 90, 50)
    save_detector(module.detector, tmp_path)
    assert torch.equal(load_detector(tmp_path)(image).anomaly_map, found.anomaly_map)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"patch": 5, "stride": 4}, "stride plus an even"),
        ({"variance": 1.5}, r"model\.variance=1\.5: a number in \(0, 1\)"),
        ({"cache": {"feature": True}}, "did you mean 'features'"),
    ],
)
def test_wrong_keys_are_named(backbone, keys, text):
    with pytest.raises(UserError, match=text):
        build(backbone, **keys)


def test_a_step_on_drawn_regions_takes_other_ones_of_each_image(backbone):
    module = build(backbone, positions=10, stride=8, patch=8)
    regions = noise(3, 5, 8, 8)
    drawn = [module._drawn(regions, step)[..., 0] for step in (0, 0, 1)]
    assert drawn[0].shape == (3, 5, 10)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    places = []
    for image, found in zip(regions.flatten(2), drawn[0], strict=True):
        apart = torch.cdist(found.mT, image.mT)
        assert float(apart.amin(1).max()) < 1e-6
        places.append(apart.argmin(1).tolist())
    assert all(len(set(each)) == 10 for each in places)
    assert sorted(places[0]) != sorted(places[1])
    every = build(backbone, positions=64, stride=8, patch=8)
    assert every._drawn(regions, 0) is regions
