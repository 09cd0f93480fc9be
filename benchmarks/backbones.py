"""How well a backbone's features serve inspection: nearest neighbour on folders in MVTec layout.

    python benchmarks/backbones.py CATEGORY_FOLDER... --teacher resnet18.safetensors

For every folder: bundled, a clean network of its shape and a teacher (where their files are
given), and random weights, read at strides 8 and 16, 3x3 average pooling, both maps joined at
stride 8, a random tenth of the training patches (at most ``--bank``), distance to the nearest as
score, Gaussian of sigma 4 at ``--side`` pixels, maximum as the image's score. Images are squashed
to a square. Speed is the bare network at batch 8, rounds of all networks in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from adbench.backbones import FeatureExtractor, build_backbone
from adbench.data.images import read_defect, read_image
from adbench.data.layouts.mvtec import read_category
from adbench.data.sample import Sample
from adbench.metrics import PixelMetrics, image_metrics

LAYERS = ("layer2", "layer3")
HEADER = ("folder", "weights", "image AUROC", "pixel AUROC", "AUPRO 0.3", "of teacher", "images/s")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    named = {"bundled": ("bundled", arguments.bundled)}
    if arguments.clean:
        named["clean"] = ("bundled", arguments.clean)
    if arguments.teacher:
        named["teacher"] = (arguments.teacher_name, arguments.teacher)
    if not arguments.no_random:
        named["random"] = (arguments.teacher_name, "random")
    networks = {
        key: build_backbone(name, LAYERS, weights, arguments.exposure)
        for key, (name, weights) in named.items()
    }
    speed = images_per_second(networks, arguments.side, arguments.rounds)
    rows = [
        (folder.name, name, figures, speed[name])
        for folder in arguments.folders
        for name, figures in compared(folder, networks, arguments).items()
    ]
    rows += means(rows)
    if arguments.markdown:
        print(markdown_table(rows))
    else:
        Console().print(rich_table(rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="CATEGORY with train/ and test/")
    parser.add_argument("--bundled", default=None, help="weights instead of the packaged ones")
    parser.add_argument(
        "--clean", default=None, help="weights of `adbench distill objective=dense`"
    )
    parser.add_argument("--teacher", default=None, help="weights file of --teacher-name")
    parser.add_argument("--teacher-name", default="resnet18.tv_in1k", help="timm name")
    parser.add_argument("--no-random", action="store_true", help="leave out random weights")
    parser.add_argument("--exposure", type=float, default=None, help="as backbone.exposure")
    parser.add_argument("--side", type=int, default=256, help="working size, pixels")
    parser.add_argument("--bank", type=int, default=20000, help="most patches kept")
    parser.add_argument("--seed", type=int, default=0, help="fixes the patches kept")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the timing")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser.parse_args()


def compared(
    folder: Path, networks: dict[str, FeatureExtractor], arguments: argparse.Namespace
) -> dict[str, dict[str, float | None]]:
    """Return network -> image, pixel and aupro of one folder."""
    samples = read_category(folder, folder.name, folder.parent)
    train = [s for s in samples if s.split == "train"]
    test = [s for s in samples if s.split == "test"]
    found = {}
    for name, network in networks.items():
        bank = memory_bank(network, train, arguments.side, arguments.bank, arguments.seed)
        found[name] = figures(network, bank, test, arguments.side)
    return found


def figures(
    network: FeatureExtractor, bank: Tensor, test: Sequence[Sample], side: int
) -> dict[str, float | None]:
    """Return image AUROC, pixel AUROC and AUPRO at 0.3 of a test split, at ``side`` pixels."""
    pixel = PixelMetrics(limits=(0.3,))
    scores = []
    for sample, features in zip(test, patch_features(network, test, side), strict=True):
        anomaly_map = smoothed_map(nearest_distance(features, bank), side)
        scores.append(anomaly_map.max())
        bare = bool(sample.label) and not sample.masks  # defective, nobody drew where
        pixel.update(anomaly_map, None if bare else squashed_mask(sample, side))
    image = image_metrics(np.array(scores), np.array([int(s.label) for s in test]))
    pixels = pixel.compute()
    return {"image": image["auroc"], "pixel": pixels["auroc"], "aupro": pixels["aupro_30"]}


@torch.inference_mode()
def patch_features(
    network: FeatureExtractor, samples: Sequence[Sample], side: int
) -> Iterator[Tensor]:
    """Yield each image's patch features [h, w, C] at the stride of the first layer."""
    for first in range(0, len(samples), 8):
        images = [_squashed(sample, side) for sample in samples[first : first + 8]]
        fine, coarse = network(torch.stack(images))
        fine = functional.avg_pool2d(fine, 3, 1, 1)
        coarse = functional.avg_pool2d(coarse, 3, 1, 1)
        coarse = functional.interpolate(coarse, fine.shape[-2:], mode="bilinear")
        yield from torch.cat([fine, coarse], 1).permute(0, 2, 3, 1)


def _squashed(sample: Sample, side: int) -> Tensor:
    image = read_image(sample.image)
    method = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    image = cv2.resize(image, (side, side), interpolation=method)
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def squashed_mask(sample: Sample, side: int) -> NDArray[np.bool_]:
    """Return the union of the sample's masks at the working size; empty for a good image."""
    mask = np.zeros((side, side), np.uint8)
    for path in sample.masks or ():
        own = read_defect(path).astype(np.uint8)
        mask |= cv2.resize(own, (side, side), interpolation=cv2.INTER_NEAREST)
    return mask.astype(bool)


def memory_bank(
    network: FeatureExtractor, train: Sequence[Sample], side: int, most: int, seed: int
) -> Tensor:
    """Return a random tenth of the training patches, at most ``most``: [n, C]."""
    generator = torch.Generator().manual_seed(seed)
    share = min(0.1, most / (len(train) * (side // 8) ** 2))
    kept = []
    for features in patch_features(network, train, side):
        rows = features.flatten(0, 1)
        kept.append(rows[torch.rand(len(rows), generator=generator) < share])
    return torch.cat(kept)


@torch.inference_mode()
def nearest_distance(features: Tensor, bank: Tensor) -> Tensor:
    """Return the Euclidean distance of each patch [h, w, C] to the nearest of the bank: [h, w]."""
    rows = features.flatten(0, 1)
    half = bank.square().sum(1) / 2
    best = (half - rows @ bank.T).amin(1)
    return (2 * best + rows.square().sum(1)).clamp(min=0).sqrt().view(features.shape[:2])


def smoothed_map(distance: Tensor, side: int) -> NDArray[np.float32]:
    """Return the map at ``side`` pixels, smoothed by a Gaussian of sigma 4."""
    large = cv2.resize(distance.numpy(), (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.GaussianBlur(large, (0, 0), 4), dtype=np.float32)


@torch.inference_mode()
def images_per_second(
    networks: dict[str, FeatureExtractor], side: int, rounds: int
) -> dict[str, float]:
    """Return images a second at batch 8, the best of interleaved rounds."""
    image = torch.rand(8, 3, side, side)
    best = dict.fromkeys(networks, float("inf"))
    for _ in range(rounds + 1):
        for name, network in networks.items():
            start = time.perf_counter()
            network(image)
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 8 / seconds for name, seconds in best.items()}


Row = tuple[str, str, dict[str, float | None], float]


def means(rows: Sequence[Row]) -> list[Row]:
    """Return a row a network: the means of what its folders have; none for a single folder."""
    folders = {row[0] for row in rows}
    found = []
    for name in dict.fromkeys(row[1] for row in rows if len(folders) > 1):
        own = [row for row in rows if row[1] == name]
        known = {key: [row[2][key] for row in own if row[2][key] is not None] for key in own[0][2]}
        figures = {key: float(np.mean(values)) if values else None for key, values in known.items()}
        found.append((f"mean of {len(own)}", name, figures, own[0][3]))
    return found


def _cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for folder, name, found, speed in rows:
        teacher = next((r[2] for r in rows if r[0] == folder and r[1] == "teacher"), None)
        of_teacher = "-"
        if teacher:
            of_teacher = " / ".join(_share(found[key], teacher[key]) for key in ("image", "pixel"))
        told = [_told(found[key]) for key in ("image", "pixel", "aupro")]
        yield (folder, name, *told, of_teacher, f"{speed:.1f}")


def _told(value: float | None) -> str:
    """Return a figure, or a dash where a folder has no masks to compute it from."""
    return "-" if value is None else f"{value:.3f}"


def _share(own: float | None, whole: float | None) -> str:
    return _told(own / whole if own is not None and whole else None)


def rich_table(rows: Sequence[Row]) -> Table:
    """Return the table for a terminal."""
    table = Table(*HEADER)
    for cells in _cells(rows):
        table.add_row(*cells)
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *_cells(rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
