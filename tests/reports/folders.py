"""Run folders made up in a moment, with names that nobody should trust."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np

HOSTILE = "</script><img src=x onerror=alert(1)>.png"
THRESHOLD = 0.5
# (score, label): three misses, two false alarms at 0.5
SCORES = [
    *[(0.05 * n, 0) for n in range(1, 9)],
    (0.62, 0),
    (0.81, 0),
    (0.10, 1),
    (0.33, 1),
    (0.49, 1),
    *[(0.55 + 0.04 * n, 1) for n in range(10)],
]


def made_up(
    root: Path,
    name: str = "seed0-00000000",
    *,
    model: str = "glass",
    category: str = "bottle",
    seed: int = 0,
    auroc: float = 0.9,
    gallery: bool = True,
    overrides: tuple[str, ...] = ("experiment=glass_cpu",),
) -> Path:
    """Write a finished run below ``root``; return its folder."""
    folder = root / model / "mvtec" / category / name
    folder.mkdir(parents=True)
    config = {"model.name": model, "dataset.name": "mvtec", "train.steps": 600 + seed}
    config |= {"dataset.category": category, "backbone.name": "bundled"}
    record = {
        "status": "finished",
        "model": model,
        "seed": seed,
        "protocol": "honest",
        "identity": {"config": config, "data": {"schema": 1}, "code": "abc"},
        "environment": {"device": "a processor", "command": ["train", *overrides]},
        "weights": {"name": "bundled", "source": "bundled with adbench"},
        "seconds": {"total": 120.0, "fit": 90.0},
        "sealed": {"opened": []},
    }
    pixel = {"auroc": 0.95, "ap": 0.5, "f1max": 0.5, "aupro_30": 0.9, "aupro_05": 0.6, "why": {}}
    metrics = {
        "schema": 1,
        "protocol": "honest",
        "marks": [],
        "category": category,
        "image": {"auroc": auroc, "ap": 0.9, "f1max": 0.9, "f1max_threshold": 0.31},
        "pixel": {**pixel, "pro_glass": 0.97},
        "oracle": {"epoch": 3, "image_auroc": auroc + 0.02, "pixel_auroc": 0.96},
        "by_defect": {"crack": {"image": {"auroc": auroc}}, "<b>bold</b>": {"image": {"auroc": 1}}},
        "threshold": {"value": THRESHOLD, "source": "20 held-out normal images"},
        "counts": {"good": 10, "defective": 13, "unlabelled": 0, "without_mask": 0},
        "seconds": {"inference": 2.3},
        "why": {},
    }
    documents = {"run.json": record, "metrics.json": metrics}
    documents["threshold.json"] = {"held_out_scores": [0.1, 0.2, 0.3], "value": THRESHOLD}
    curve = {"x": [0.0, 0.2, 1.0], "y": [0.0, 0.9, 1.0]}
    documents["curves.json"] = {"schema": 1, "pixel": {"roc": curve, "pr": curve, "pro": curve}}
    for file, document in documents.items():
        (folder / file).write_text(json.dumps(document))
    (folder / "overrides.yaml").write_text(json.dumps(list(overrides)))
    (folder / "history.csv").write_text(
        "epoch,loss,lr0,seconds,img_per_s\n1,2.0,0.1,3,9\n2,1.0,0.1,3,9\n"
    )
    names = _predictions(folder)
    if gallery:
        _gallery(folder, names)
    return folder


def _predictions(folder: Path) -> list[tuple[str, int, float]]:
    rows = []
    for number, (score, label) in enumerate(SCORES):
        kind = "crack" if label else "good"
        path = f"{kind}/{HOSTILE}" if number == 10 else f"{kind}/{number:03d}.png"
        rows.append((path, label, score))
    with open(folder / "predictions.csv", "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["path", "label", "defect", "score", "decision"])
        writer.writerows(
            [path, label, path.split("/")[0], score, ""] for path, label, score in rows
        )
    return rows


def _gallery(folder: Path, rows: list[tuple[str, int, float]]) -> None:
    place = folder / "images" / "gallery"
    place.mkdir(parents=True)
    for number, (_, label, _) in enumerate(rows):
        picture = np.full((64, 64, 3), 90 + 3 * number, np.uint8)
        planes = np.zeros((64, 64, 3), np.uint8)
        planes[..., 2] = np.linspace(0, 255, 64).astype(np.uint8)[None]  # red: the map
        if label:
            planes[20:40, 20:40, 1] = 255
        cv2.imwrite(str(place / f"{number:03d}.jpg"), picture)
        cv2.imwrite(str(place / f"{number:03d}.png"), planes)
    pictures = [{"path": path, "label": label, "score": score} for path, label, score in rows]
    card = {"schema": 1, "low": 0.0, "high": 2.0, "threshold": 0.7, "pictures": pictures}
    (place / "gallery.json").write_text(json.dumps(card))
