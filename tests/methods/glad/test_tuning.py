"""Fine-tuned features: what moves, what stays, and what a detector keeps of it."""

from __future__ import annotations

import pytest
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.glad.dino import tuning_loss
from adbench.methods.glad.settings import TuningKeys
from adbench.methods.glad.tuning import Pairs, tuned
from tests.methods.glad.conftest import glad, prepared

LAYERS = ["blocks.0", "blocks.2"]
KEYS = {"epochs": 3, "batch_size": 4, "accumulate": 1, "start": 100, "steps": 3}


@pytest.fixture(scope="module")
def transformer():
    return FeatureExtractor(name="vit_tiny_patch16_224", layers=LAYERS)


@pytest.fixture(scope="module")
def pairs():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(8, 3, 32, 32, generator=generator)
    return Pairs([image], lambda batch: (batch + 0.2).clamp(0, 1))


def apart(network, frozen, pairs, weight):
    image, made = next(pairs.batches(torch.arange(len(pairs)), len(pairs), torch.device("cpu")))
    with torch.no_grad():
        return float(
            tuning_loss(network(image), network(made), frozen(image), frozen(made), weight)
        )


def test_reconstructions_come_nearer_and_the_mlps_read_move_alone(transformer, pairs):
    keys = TuningKeys(**KEYS)
    network = tuned(transformer, pairs, keys, seed=0)
    before = apart(transformer, transformer, pairs, keys.weight)
    assert apart(network, transformer, pairs, keys.weight) < 0.7 * before
    old, new = transformer.state_dict(), network.state_dict()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {name for name in old if any(f"{layer}.mlp." in name for layer in LAYERS)}
    assert not any(weight.requires_grad for weight in network.parameters())


def test_the_same_seed_gives_the_same_features(transformer, pairs):
    first, second = (tuned(transformer, pairs, TuningKeys(**KEYS), seed=1) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_a_detector_scores_with_tuned_features_and_steps_with_the_untouched(
    transformer, datamodule, tmp_path
):
    detector = (module := prepared(glad(transformer, tuning=KEYS), datamodule, tmp_path)).detector
    image = next(iter(datamodule.val_batches())).image
    latents = torch.rand(2, 2, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    untouched = detector.compared(*latents)
    module.finish(datamodule)
    assert detector.settled.tuned
    assert torch.equal(untouched.score, detector.compared(*latents).score)
    found = detector(image)
    detector.scorer, kept = None, detector.scorer
    assert not torch.allclose(detector(image).anomaly_map, found.anomaly_map)
    detector.scorer = kept
    save_detector(detector, tmp_path)
    reloaded = load_detector(tmp_path)
    assert torch.allclose(reloaded(image).score, found.score, atol=1e-6)


def test_a_convolutional_backbone_is_refused_before_anything_trains(backbone):
    with pytest.raises(UserError, match=r"vision transformer.*tuning.epochs=0"):
        glad(backbone, tuning=KEYS)
