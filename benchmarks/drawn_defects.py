"""A test out of training photographs alone, to settle settings on.

python benchmarks/drawn_defects.py CATEGORY_FOLDER OUT [--order light] [--within 0.7]

Of CATEGORY_FOLDER/train/good, 70 % become the training images of OUT (MVTec's layout): the darkest
with ``--order light``, else a draw. All others are its good test images and, with a drawn spot,
line, patch or shade, twice of each, its defective ones. No test image of the category is read.
Then, for example:

adbench train experiment=glass_cpu dataset=mvtec dataset.root=PARENT_OF_OUT dataset.category=OUT
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import cv2
import numpy as np

from adbench.data.images import images_in

KINDS = ("spot", "line", "patch", "shade")
TRAINED = 0.705  # share of the photographs that is trained on
DRAWS = 2  # of every kind on every other photograph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("category", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--order", choices=["light", "random"], default="random")
    parser.add_argument("--within", type=float, default=0.7, help="drawn in this middle share")
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    paths = images_in(chosen.category / "train" / "good")
    if chosen.order == "light":
        order = np.argsort([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).mean() for path in paths])
    else:
        order = rng.permutation(len(paths))
    paths = [paths[i] for i in order]
    cut = int(TRAINED * len(paths))
    copied(paths[:cut], chosen.out / "train" / "good")
    copied(paths[cut:], chosen.out / "test" / "good")
    for kind in KINDS:
        for number, path in enumerate(paths[cut:] * DRAWS):
            photograph = cv2.imread(str(path)).astype(np.float32)
            picture, mask = damaged(photograph, kind, chosen.within, rng)
            write(chosen.out / "test" / kind / f"{number:03d}.png", picture)
            write(chosen.out / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
    good = len(paths) - cut
    print(f"{cut} to train, {good} good, {len(KINDS) * DRAWS * good} damaged: {chosen.out}")


def copied(paths, folder):
    folder.mkdir(parents=True)
    for path in paths:
        shutil.copy(path, folder)


def write(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


def damaged(picture, kind, within, rng):
    """Return picture [H, W, 3], 0..255, uint8 with a drawn defect, and its mask [H, W]."""
    height, width = picture.shape[:2]
    low, high = (1 - within) / 2, (1 + within) / 2
    place = rng.uniform(low, high) * width, rng.uniform(low, high) * height
    shape = np.zeros((height, width), np.float32)
    blur, gain = {"spot": spot, "line": line, "patch": patch, "shade": shade}[kind](
        shape, place, rng
    )
    alpha = cv2.GaussianBlur(shape, (0, 0), blur)
    grain = rng.normal(size=(height, width)).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 1.5)
    rough = 0.15 * grain / grain.std() if kind == "patch" else np.zeros_like(grain)
    factor = 1 + alpha * (gain * (1 + rough) - 1)
    made = (picture * factor[..., None]).clip(0, 255).astype(np.uint8)
    return made, ((alpha > 0.3) * 255).astype(np.uint8)


def spot(shape, place, rng):
    radius = rng.uniform(2.5, 7)
    axes = int(radius), int(max(2, radius * rng.uniform(0.5, 1)))
    cv2.ellipse(shape, pixel(place), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return 1.0, rng.uniform(0.35, 0.75)


def line(shape, place, rng):
    points, angle = [place], rng.uniform(0, 6.28)
    for _ in range(6):
        angle += rng.normal() * 0.4
        x, y = points[-1]
        points.append((x + 12 * math.cos(angle), y + 12 * math.sin(angle)))
    cv2.polylines(shape, [np.array(points).astype(np.int32)], False, 1, int(rng.integers(1, 3)))
    return 0.6, rng.uniform(0.4, 0.8)


def patch(shape, place, rng):
    reach = rng.uniform(15, 45)
    corners = []
    for angle in np.linspace(0, 6.28, 8)[:-1]:
        x = place[0] + reach * rng.uniform(0.4, 1) * math.cos(angle)
        corners.append((x, place[1] + reach * rng.uniform(0.4, 1) * math.sin(angle)))
    cv2.fillPoly(shape, [np.array(corners, np.float32).astype(np.int32)], 1)
    return 1.5, rng.choice([rng.uniform(0.6, 0.85), rng.uniform(1.2, 1.6)])


def shade(shape, place, rng):
    reach = rng.uniform(20, 60)
    axes = int(reach), int(reach / 2)
    cv2.ellipse(shape, pixel(place), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return 8.0, rng.choice([rng.uniform(0.5, 0.75), rng.uniform(1.4, 2.0)])


def pixel(place):
    return int(place[0]), int(place[1])


if __name__ == "__main__":
    main()
