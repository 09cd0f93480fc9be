"""Image metrics, sPRO and AD 2's F1 against the stored references."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from adbench.metrics import Channel, SproMetrics, image_metrics, pixel_metrics
from adbench.metrics.ad2 import FixedThresholdF1, PixelMoments


def loaded(shared, name):
    with np.load(shared / "judges" / "metrics" / name, allow_pickle=False) as stored:
        return dict(stored)


@pytest.mark.shared
def test_image_judge(shared):
    judge = loaded(shared, "image.npz")
    cases = sorted({key.split("/")[0] for key in judge})
    assert len(cases) == 12
    for case in cases:
        found = image_metrics(judge[f"{case}/score"], judge[f"{case}/label"])
        for name in ("auroc", "ap", "f1max", "f1max_threshold"):
            reference = judge.get(f"{case}/{name}", np.float64(np.nan))
            # The judge gives AP and F1 a 1 where all is defective: with one class there is none.
            if np.isnan(reference) or case == "only_defect":
                assert found[name] is None, (case, name)
            else:
                assert found[name] == pytest.approx(float(reference), abs=1e-12), (case, name)


def test_scores_closer_than_float32_resolves_stay_apart():
    score = np.array([1.0, 1.0 + 1e-12])
    assert image_metrics(score, np.array([0, 1]))["auroc"] == 1.0


def test_equal_to_scikit_learn_on_ties():
    rng = np.random.default_rng(0)
    score, label = rng.integers(0, 6, 200) / 7, rng.integers(0, 2, 200)
    found = image_metrics(score, label)
    assert found["auroc"] == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert found["ap"] == pytest.approx(average_precision_score(label, score), abs=1e-12)


@pytest.mark.shared
def test_spro_judge(shared):
    judge = loaded(shared, "spro.npz")
    rules = {
        int(v): (float(t), bool(r))
        for v, t, r in zip(
            judge["cfg_value"], judge["cfg_threshold"], judge["cfg_relative"], strict=True
        )
    }
    kinds = ("good", "logical", "structural")
    metric = SproMetrics(tuple(judge["limits"].tolist()))
    for number, anomaly_map in enumerate(judge["maps"]):
        rows = np.flatnonzero(judge["channel_image"] == number)
        channels = [
            Channel(
                judge["channels"][row].astype(bool),
                *rules[int(judge["channel_value"][row])],
                str(int(judge["channel_value"][row])),
            )
            for row in rows
        ]
        for row, channel in zip(rows, channels, strict=True):
            assert channel.saturation == int(judge["channel_saturation"][row])
        metric.update(anomaly_map, channels, kinds[int(judge["kind"][number])])
    found = metric.compute()
    for ours, theirs in (
        ("structural", "exact/structural_anomalies"),
        ("logical", "exact/logical_anomalies"),
        ("mean", "exact/mean"),
    ):
        assert list(found[ours].values()) == pytest.approx(judge[theirs].tolist(), abs=1e-9)
    named = [key for key in judge if key.startswith("exact/defect/")]
    assert len(named) == len(found["by_defect"]) == 4
    areas = sorted(tuple(np.round(judge[key], 8)) for key in named)
    ours = sorted(tuple(np.round(list(v.values()), 8)) for v in found["by_defect"].values())
    assert np.allclose(areas, ours, atol=1e-7)


@pytest.mark.shared
def test_ulsads_loco_judge(shared):
    with np.load(shared / "judges/methods/ulsad/loco_spro.npz", allow_pickle=False) as stored:
        judge = dict(stored)
    rules = {int(v): (float(t), bool(r)) for v, t, r in judge["config"]}
    kinds = ("good", "logical", "structural")
    metric = SproMetrics(tuple(judge["limits"].tolist()))
    for number, anomaly_map in enumerate(judge["maps"]):
        masks = judge["region_masks"][judge["region_image"] == number]
        channels = [Channel(m > 0, *rules[int(m.max())], str(int(m.max()))) for m in masks]
        metric.update(anomaly_map, channels, kinds[int(judge["image_label"][number])])
    found = metric.compute()
    for key in judge:
        if key.startswith("au_spro_"):
            subset = "logical" if "logical" in key else "structural"
            assert list(found[subset].values()) == pytest.approx(judge[key].tolist(), abs=1e-5)


def test_spro_with_whole_areas_is_aupro():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 20, 20), bool)
    masks[1:, 3:9, 5:12] = True
    maps = rng.normal(size=masks.shape).astype(np.float32) + masks
    metric = SproMetrics((0.3,))
    for anomaly_map, mask in zip(maps, masks, strict=True):
        channels = [Channel(mask, 1.0, True, "x")] if mask.any() else []
        metric.update(anomaly_map, channels, "logical" if channels else "good")
    exact = pixel_metrics(maps, masks)["aupro_30"]
    assert metric.compute()["logical"]["spro_30"] == pytest.approx(exact, abs=1e-12)


@pytest.mark.shared
def test_ad2_judge(shared):
    judge = loaded(shared, "ad2.npz")
    moments = PixelMoments()
    assert moments.threshold is None
    for anomaly_map in judge["validation_maps"]:
        moments.update(anomaly_map)
    assert moments.threshold == pytest.approx(float(judge["threshold"]), abs=1e-9)
    masks = judge["masks"].astype(bool)
    fixed = FixedThresholdF1(moments.threshold)
    for number, (anomaly_map, mask) in enumerate(zip(judge["maps"], masks, strict=True)):
        fixed.update(anomaly_map, mask, "first" if number < 2 else "rest")
    found = fixed.compute()
    assert found["segmentation"]["f1"] == pytest.approx(float(judge["segf1"]), abs=1e-12)
    assert found["segmentation"]["precision"] == pytest.approx(float(judge["precision"]), abs=1e-12)
    assert found["segmentation"]["recall"] == pytest.approx(float(judge["recall"]), abs=1e-12)
    assert found["classification"]["f1"] == pytest.approx(float(judge["classf1"]), abs=1e-12)
    alone = FixedThresholdF1(moments.threshold)
    for anomaly_map, mask in zip(judge["maps"][:2], masks[:2], strict=True):
        alone.update(anomaly_map, mask)
    assert fixed.compute("first") == alone.compute()
    exact = pixel_metrics(judge["maps"], masks)["aupro_05"]
    assert exact == pytest.approx(float(judge["aupro_005_float32"]), abs=1e-7)


def test_an_empty_channel_is_no_defect():
    maps = np.random.default_rng(0).random((2, 8, 8))
    metric = SproMetrics((0.3,))
    metric.update(maps[0], [Channel(np.zeros((8, 8), bool), 1.0, True, "x")], "logical")
    metric.update(maps[1], [], "good")
    assert metric.compute()["logical"] == {"spro_30": None}
    assert metric.compute()["by_defect"] == {}
