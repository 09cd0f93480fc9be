"""Miniature data sets, quirks included."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image


def image(path: Path, *, size: tuple[int, int] = (8, 8), seed: int = 0, gray: bool = False) -> Path:
    """Write a noise image; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = [seed, *path.as_posix().encode()]
    shape = size if gray else (*size, 3)
    pixels = np.random.default_rng(key).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, *, size: tuple[int, int] = (8, 8), value: int = 255, rows: int = 2) -> Path:
    """Write a mask whose first ``rows`` rows hold ``value``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[:rows] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec(root: Path, category: str = "bottle", *, train: int = 3) -> Path:
    """Two normal and two defective test images."""
    for i in range(train):
        image(root / category / "train/good" / f"{i:03d}.png")
    for i in range(2):
        image(root / category / "test/good" / f"{i:03d}.png")
        image(root / category / "test/broken" / f"{i:03d}.png")
        mask(root / category / "ground_truth/broken" / f"{i:03d}_mask.png")
    return root


def loco(root: Path) -> Path:
    """One category; logical image 000 has two overlapping channels."""
    category = root / "pushpins"
    for split in ("train", "validation"):
        image(category / split / "good/000.png")
    for kind in ("good", "logical_anomalies", "structural_anomalies"):
        image(category / "test" / kind / "000.png")
    truth = category / "ground_truth"
    mask(truth / "logical_anomalies/000/000.png", value=255)
    mask(truth / "logical_anomalies/000/001.png", value=254, rows=3)
    mask(truth / "structural_anomalies/000/000.png", value=253, rows=1)
    rules = [
        ("1_additional_pushpin", 255, 10, False),
        ("missing_pushpin", 254, 0.5, True),
        ("broken", 253, 1.0, True),
    ]
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    entries = [dict(zip(keys, rule, strict=True)) for rule in rules]
    (category / "defects_config.json").write_text(json.dumps(entries))
    return root


def ad2(root: Path) -> Path:
    """One category, two lights in the public test set, both private sets."""
    category = root / "vial"
    image(category / "train/good/000_regular.png", gray=True)
    image(category / "validation/good/000_regular.png", gray=True)
    for light in ("regular", "overexposed", "shift_1"):
        image(category / "test_public/good" / f"000_{light}.png", gray=True)
        image(category / "test_public/bad" / f"000_{light}.png", gray=True)
        mask(category / "test_public/ground_truth/bad" / f"000_{light}_mask.png")
    image(category / "test_private/000_regular.png", gray=True)
    image(category / "test_private_mixed/000_mixed.png", gray=True)
    return root


def visa(root: Path, file: str = "split_csv/1cls.csv") -> Path:
    """As published: JPG images, masks of class ids, a split file."""
    rows = []
    for i in range(3):
        path = image(root / "candle/Data/Images/Normal" / f"{i:04d}.JPG")
        rows.append(("candle", "test" if i == 2 else "train", "normal", path, None))
    for i in range(2):
        path = image(root / "candle/Data/Images/Anomaly" / f"{i:03d}.JPG")
        truth = mask(root / "candle/Data/Masks/Anomaly" / f"{i:03d}.png", value=i + 1)
        rows.append(("candle", "test", "anomaly", path, truth))
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    with open(root / file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["object", "split", "label", "image", "mask"])
        for category, split, label, path, truth in rows:
            relative = truth.relative_to(root).as_posix() if truth else ""
            writer.writerow([category, split, label, path.relative_to(root).as_posix(), relative])
    return root


def btad(root: Path) -> Path:
    """bmp images with png masks in 01, bmp masks in 03, one folder below the root."""
    base = root / "BTech_Dataset_transformed"
    for category, suffix, mask_suffix in (
        ("01", "bmp", "png"),
        ("02", "png", "png"),
        ("03", "bmp", "bmp"),
    ):
        for i in range(2):
            image(base / category / "train/ok" / f"{i:04d}.{suffix}")
        image(base / category / "test/ok" / f"0000.{suffix}")
        image(base / category / "test/ko" / f"0000.{suffix}")
        mask(base / category / "ground_truth/ko" / f"0000.{mask_suffix}")
    return root


def mad(root: Path, inner: str, subsets: tuple[str, ...]) -> Path:
    """Subsets with one good and one bad test image of ``carpet``; MVTec AD beside."""
    for subset in subsets:
        category = root / inner / subset / "carpet"
        image(category / "test/good/000.png")
        image(category / "test/bad/000.png")
        mask(category / "ground_truth/bad/000_mask.png")
    mvtec(root.parent / "mvtec", "carpet")
    return root
