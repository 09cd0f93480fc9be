"""All pixel metrics of 83 maps of 320x320 on one core, beside scikit-learn's three functions."""

from __future__ import annotations

import time

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from adbench.metrics import pixel_metrics

COUNT, SIDE = 83, 320


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Return maps and masks as patch distances look: log-normal, 2.7 % defect pixels."""
    rng = np.random.default_rng(0)
    masks = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for mask in masks[20:]:
        for _ in range(2):
            centre = tuple(int(v) for v in rng.integers(40, SIDE - 40, 2))
            cv2.ellipse(mask, centre, (29, 19), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    noise = rng.normal(size=masks.shape).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(n, (0, 0), 4) * 8 for n in noise])
    return np.exp(0.5 * (smooth + 1.5 * masks)).astype(np.float32), masks.astype(bool)


def fastest(function, times: int = 3) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    cv2.setNumThreads(1)
    maps, masks = drawn()
    flat, truth = maps.ravel(), masks.ravel()
    print(f"{COUNT} maps of {SIDE}x{SIDE}, {masks.mean():.1%} defect pixels")
    ours = fastest(lambda: pixel_metrics(maps, masks))
    rows = {
        "adbench: AUROC, AP, F1-max, AUPRO at 0.3 and 0.05": ours,
        "adbench, two passes": fastest(lambda: pixel_metrics(maps, masks, mode="two_pass"), 1),
        "adbench, histogram": fastest(lambda: pixel_metrics(maps, masks, mode="histogram"), 1),
    }
    theirs = {
        "scikit-learn roc_auc_score": fastest(lambda: roc_auc_score(truth, flat), 1),
        "scikit-learn average_precision_score": fastest(
            lambda: average_precision_score(truth, flat), 1
        ),
        "scikit-learn precision_recall_curve": fastest(
            lambda: precision_recall_curve(truth, flat), 1
        ),
    }
    for name, seconds in (rows | theirs).items():
        print(f"{seconds:7.3f} s  {name}")
    print(f"ratio scikit-learn / adbench: {sum(theirs.values()) / ours:.1f}")


if __name__ == "__main__":
    main()
