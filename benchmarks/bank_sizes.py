"""PatchCore's accuracy and speed over sizes of its bank, from one coreset a category.

    python benchmarks/bank_sizes.py CATEGORY_FOLDER... --weights resnet18.safetensors

The greedy choice is made once to the largest size: what it chose first is the coreset of each
smaller one. All training pictures, 256 px squashed, layer2 and layer3, map smoothed, its largest
value as score; images/s with the backbone, batch 8, the best of interleaved rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from backbones import images_per_second, patch_features, smoothed_map
from torch import Tensor

from adbench.backbones import build_backbone
from adbench.data.layouts.mvtec import read_category
from adbench.methods.coreset import greedy_coreset, projected
from adbench.methods.nearest import Bank
from adbench.metrics import image_metrics

LAYERS = ("layer2", "layer3")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    network = build_backbone(arguments.backbone, LAYERS, arguments.weights, None)
    network = network.to(memory_format=torch.channels_last)
    sizes = sorted(map(int, arguments.banks.split(",")))
    kept = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for folder in arguments.folders:
        if folder.name not in kept:
            kept[folder.name] = accuracy(network, folder, sizes, arguments)
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps(kept))
        print(f"{folder.name}: {kept[folder.name]}", flush=True)
    print(markdown(kept, sizes, speed(network, sizes, arguments)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="CATEGORY with train/ and test/")
    parser.add_argument("--weights", default=None, help="file of --backbone")
    parser.add_argument("--backbone", default="resnet18.tv_in1k", help="timm name")
    parser.add_argument("--banks", default="500,1000,2000,4000,8000", help="features kept")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--images", type=int, default=10**6, help="most training pictures read")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bank_sizes.json"), help="what is done"
    )
    return parser.parse_args()


@torch.no_grad()
def accuracy(
    network: torch.nn.Module, folder: Path, sizes: Sequence[int], arguments: argparse.Namespace
) -> dict[str, float]:
    """Return image AUROC by size, of the test split of a folder."""
    samples = read_category(folder, folder.name, folder.parent)
    train = [sample for sample in samples if sample.split == "train"][: arguments.images]
    test = [sample for sample in samples if sample.split == "test"]
    rows = torch.cat([f.flatten(0, 1) for f in patch_features(network, train, arguments.side)])
    points = projected(rows, 128, torch.Generator().manual_seed(0))
    order = greedy_coreset(points, min(sizes[-1], len(rows)), 0)
    bank, labels = rows[order], np.array([int(sample.label) for sample in test])
    scores: dict[int, list[float]] = {size: [] for size in sizes}
    for features in patch_features(network, test, arguments.side):
        for size, distance in zip(sizes, distances(features, bank, sizes), strict=True):
            scores[size].append(float(smoothed_map(distance, arguments.side).max()))
    return {str(size): image_metrics(np.array(scores[size]), labels)["auroc"] for size in sizes}


def distances(features: Tensor, bank: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Return [h, w] distances to the nearest of the first ``size`` of the bank, for each size."""
    rows, half = features.flatten(0, 1), bank.square().sum(1) / 2
    best, start, found = rows.new_full((len(rows),), torch.inf), 0, []
    for size in sizes:
        for first in range(start, size, 2000):
            part = slice(first, min(first + 2000, size))
            if len(bank[part]):
                near = torch.addmm(half[None, part], rows, bank[part].mT, alpha=-1).amin(1)
                best = torch.minimum(best, near)
        start = size
        squared = (2 * best + rows.square().sum(1)).clamp(min=0)
        found.append(squared.sqrt().view(features.shape[:2]))
    return found


@torch.no_grad()
def speed(
    network: torch.nn.Module, sizes: Sequence[int], arguments: argparse.Namespace
) -> dict[int, float]:
    """Return images a second of backbone and search, by size."""
    alone = images_per_second({"": network}, arguments.side, arguments.rounds)[""]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(8 * (arguments.side // 8) ** 2, 384, generator=generator)
    found = {}
    for size in sizes:
        bank = Bank(size, 384)
        bank.set(torch.randn(size, 384, generator=generator))
        times = []
        for _ in range(arguments.rounds):
            start = time.perf_counter()
            bank.nearest(rows)
            times.append(time.perf_counter() - start)
        found[size] = 8 / (8 / alone + min(times))
    return found


def markdown(
    kept: dict[str, dict[str, float]], sizes: Sequence[int], fast: dict[int, float]
) -> str:
    """Return the table: a row a size; mean, worst, bytes of the bank, images a second."""
    lines = [["bank", *kept, "mean", "worst", "MB", "images/s"], ["---"] * (len(kept) + 5)]
    for size in sizes:
        own = [kept[name][str(size)] for name in kept]
        told = [f"{value:.3f}" for value in (*own, mean(own), min(own))]
        lines.append([str(size), *told, f"{size * 768 / 1e6:.1f}", f"{fast[size]:.1f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
