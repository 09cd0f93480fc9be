"""Evaluation of a test set: what is reported about logical and structural anomalies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score

from adbench.config.schema import MetricKeys
from adbench.data.datamodule import DataModule, Splits
from adbench.data.images import read_mask
from adbench.data.layouts import get_layout
from adbench.methods.base import Detector, Prediction
from adbench.training.evaluate import evaluate


class Brightness(Detector):
    """Scores an image by its mean, a pixel by its value."""

    def forward(self, image):
        return Prediction(image.mean((1, 2, 3)), image.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    layout = get_layout("demo", size=64, train=2, good=4, defective=2)
    samples = layout.read(tmp_path_factory.mktemp("demo"), "box")
    tests = [sample for sample in samples if sample.split == "test"]
    trains = [sample for sample in samples if sample.split == "train"]
    data = DataModule(Splits(trains, [], tests), image_size=(64, 64), batch_size=4)
    return data, evaluate(Brightness(), data, MetricKeys(), torch.device("cpu"))


@pytest.mark.parametrize("kind", ["logical", "structural"])
def test_each_kind_is_judged_against_all_normals(found, kind):
    data, evaluation = found
    figures = evaluation.metrics["by_kind"][kind]
    rows = [row for row, sample in enumerate(data.test_samples) if sample.kind in (kind, None)]
    labels, scores = evaluation.labels[rows], evaluation.scores[rows]
    assert figures["images"] == labels.sum()
    assert figures["image"]["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    images = next(data.test_batches(len(data.test_samples))).image.mean(1).numpy()[rows]
    masks = [
        read_mask(data.test_samples[row].masks, (64, 64)) if label else np.zeros((64, 64), bool)
        for row, label in zip(rows, labels, strict=True)
    ]
    expected = roc_auc_score(np.ravel(masks), np.ravel(images))
    assert figures["pixel"]["auroc"] == pytest.approx(expected, abs=1e-6)


def test_a_fixed_threshold_gives_f1_of_pixels_and_images(found):
    data, _ = found
    keys, cpu = MetricKeys(), torch.device("cpu")
    fixed = evaluate(Brightness(), data, keys, cpu, pixel_threshold=0.5).metrics["fixed"]
    images = next(data.test_batches(len(data.test_samples))).image.mean(1).numpy()
    masks = [
        read_mask(sample.masks, (64, 64)) if sample.masks else np.zeros((64, 64), bool)
        for sample in data.test_samples
    ]
    called, truth = images > 0.5, np.stack(masks)
    assert fixed["segmentation"]["f1"] == pytest.approx(f1_score(truth.ravel(), called.ravel()))
    expected = f1_score(truth.any((1, 2)), called.any((1, 2)))
    assert fixed["classification"]["f1"] == pytest.approx(expected)


def test_the_last_partial_batch_is_scored(found):
    data, evaluation = found
    assert len(data.test_samples) % data.batch_size
    assert [sample.image for sample in evaluation.samples] == [s.image for s in data.test_samples]


def test_both_kinds_have_a_mean(found):
    kinds = found[1].metrics["by_kind"]
    both = [kinds[kind]["image"]["auroc"] for kind in ("logical", "structural")]
    assert kinds["mean"]["image"]["auroc"] == pytest.approx(sum(both) / 2)
