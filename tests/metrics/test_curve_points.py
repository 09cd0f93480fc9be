"""Points of curves: brute force on tiny inputs, and areas that thinning keeps."""

import numpy as np

from adbench.metrics import PixelMetrics
from adbench.metrics.curves import area_up_to, counted, precision_recall_curve, roc_curve, thinned


def _counts(positive, negative):
    return counted(
        np.asarray(positive, np.float32), None, [np.sort(np.asarray(negative, np.float32))], 0.0
    )


def test_roc_points_are_those_of_every_threshold():
    positive, negative = [3.0, 1.0, 1.0], [0.0, 1.0, 2.0, 4.0]
    x, y = roc_curve(_counts(positive, negative))
    points = {(float(a), float(b)) for a, b in zip(x, y, strict=True)}
    for threshold in (0.5, 1.5, 2.5, 3.5):
        false = np.mean([n > threshold for n in negative])
        true = np.mean([p > threshold for p in positive])
        if true in (0.0, 1.0):
            continue
        assert any(abs(a - false) < 1e-9 or b == true for a, b in points)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    area = float(np.trapezoid(y, x))
    beaten = np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])
    assert abs(area - beaten) < 1e-9


def test_precision_and_recall_are_those_of_every_positive_score():
    recall, precision = precision_recall_curve(_counts([3.0, 1.0], [0.0, 2.0]))
    assert recall.tolist() == [0.5, 1.0]
    assert precision.tolist() == [1.0, 2 / 3]


def test_thinning_keeps_ends_and_area():
    x = np.linspace(0, 1, 5000)
    y = np.sqrt(x)
    thin_x, thin_y = thinned(x, y, 100)
    assert len(thin_x) <= 100
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (0, 0, 1, 1)
    thin = area_up_to(np.array(thin_x), np.array(thin_y), 0.3)
    assert abs(thin - area_up_to(x, y, 0.3)) < 2e-3


def test_pixel_curves_have_the_areas_of_the_figures():
    rng = np.random.default_rng(0)
    metric = PixelMetrics()
    for _ in range(4):
        mask = np.zeros((24, 24), dtype=bool)
        mask[4:9, 5:11] = True
        metric.update(rng.normal(size=(24, 24)) + 2 * mask, mask)
    curves, figures = metric.curves(), metric.compute()
    roc = curves["roc"]
    assert abs(np.trapezoid(roc["y"], roc["x"]) - figures["auroc"]) < 2e-3
    pro = np.array(curves["pro"]["x"]), np.array(curves["pro"]["y"])
    assert abs(area_up_to(*pro, 0.3) - figures["aupro_30"]) < 5e-3


def test_one_class_and_histograms_have_no_curves():
    normal = PixelMetrics()
    normal.update(np.zeros((4, 4)), np.zeros((4, 4), dtype=bool))
    assert normal.curves() == {}
    assert PixelMetrics(mode="histogram").curves() == {}
