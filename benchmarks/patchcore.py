"""PatchCore beside anomalib's on one bank: equal scores, images a second; speed over bank sizes.

    python benchmarks/patchcore.py --weights resnet18.safetensors [--images FOLDER] [--anomalib]
    python benchmarks/patchcore.py --weights FILE --images FOLDER --banks 1000,4000,20000

Batch 8, 256 px. The bank is a random part of the patch features of FOLDER's pictures (of noise
without one). ``--anomalib`` needs that package (`pip install adbench[baselines]`); its model gets
our weights, our normalisation and the bank, and both are timed in turn.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor

from adbench.backbones import build_backbone
from adbench.data.images import read_image
from adbench.methods.nearest import plain_nearest
from adbench.methods.patchcore.detector import PatchcoreDetector

LAYERS = ("layer2", "layer3")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    images = pictures(arguments.images, arguments.side)
    backbone = build_backbone(arguments.backbone, LAYERS, arguments.weights, None)
    print(f"{arguments.threads} threads, batch 8, {arguments.side} px, {arguments.backbone}")
    for count in map(int, arguments.banks.split(",")):
        detector = filled(backbone, images, count, arguments.side)
        batch = images[-8:]
        normalised = (batch - backbone.mean) / backbone.std
        ours: dict[str, Callable[[], Any]] = {
            "backbone": partial(backbone, batch),
            "adbench": partial(detector, batch),
            "adbench, float32": partial(float32_bounds(detector), batch),
            "adbench, plain": partial(_plain, detector, batch),
        }
        if arguments.anomalib:
            ours["anomalib"] = partial(anomalib_model(backbone, detector), normalised)
        seconds = timed(ours, arguments.rounds)
        told = ", ".join(f"{name} {8 / value:.1f}" for name, value in seconds.items())
        print(f"bank {count}: images/s: {told}")
        if arguments.anomalib:
            print(f"  {compared(ours['adbench'](), ours['anomalib']())}")
            print(f"  adbench / anomalib: {seconds['anomalib'] / seconds['adbench']:.2f}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None, help="file of --backbone")
    parser.add_argument("--backbone", default="resnet18.tv_in1k", help="timm name")
    parser.add_argument("--images", type=Path, default=None, help="folder of pictures")
    parser.add_argument("--banks", default="20000", help="features kept, separated by commas")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--anomalib", action="store_true")
    return parser.parse_args()


def pictures(folder: Path | None, side: int) -> Tensor:
    """Return up to 40 photographs [B, 3, side, side] in 0..1, no masks; noise without a folder."""
    if folder is None:
        return torch.rand(40, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = (p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    paths = sorted(p for p in found if "ground_truth" not in p.parts)[:40]
    rows = [
        cv2.resize(read_image(path), (side, side), interpolation=cv2.INTER_AREA) for path in paths
    ]
    return torch.stack([torch.from_numpy(r).permute(2, 0, 1).float() / 255 for r in rows])


@torch.no_grad()
def filled(backbone: Any, images: Tensor, count: int, side: int) -> PatchcoreDetector:
    """Return a detector whose bank is ``count`` random patch features of all but 8 images."""
    detector = PatchcoreDetector(backbone, (side, side), 1, score="reweighted").eval()
    rows = torch.cat([detector.rows(part) for part in images[:-8].split(8)]).flatten(0, 1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
    detector.set_bank(rows[order])
    return detector


def float32_bounds(detector: PatchcoreDetector) -> PatchcoreDetector:
    """Return the same detector, searching as on a processor without bfloat16 units."""
    other = copy.deepcopy(detector)
    other.bank.search_in(torch.float32)
    return other


def _plain(detector: PatchcoreDetector, batch: Tensor) -> Tensor:
    rows = detector.compared(detector.rows(batch)).flatten(0, 1)
    parts = [plain_nearest(part, detector.bank.exact) for part in rows.split(1024)]
    return torch.cat(parts).sqrt()


def anomalib_model(backbone: Any, detector: PatchcoreDetector) -> Any:
    """Return anomalib's torch model with our weights and our bank."""
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    name = backbone.name.split(".")[0]
    model = PatchcoreModel(layers=list(backbone.layers), backbone=name, pre_trained=False)
    own = backbone.network.state_dict()
    model.feature_extractor.feature_extractor.load_state_dict(own, strict=True)
    model.memory_bank = detector.bank.exact
    return model.eval()


@torch.no_grad()
def timed(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the best seconds of each call, all in turn."""
    best = dict.fromkeys(calls, float("inf"))
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


@torch.no_grad()
def compared(ours: Any, theirs: Any) -> str:
    """Return in words how far image scores lie apart."""
    apart = float((ours.score - theirs.pred_score.flatten()).abs().max())
    return f"largest difference of scores {apart:.1e}, scores near {float(ours.score.mean()):.2f}"


if __name__ == "__main__":
    main()
