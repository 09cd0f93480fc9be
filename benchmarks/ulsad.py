"""Where ULSAD's time goes: caches, attention kernels, last layer, final map. Ratios in one run.

    python benchmarks/ulsad.py [--backbone resnet18] [--batch 8] [--repeat 3] [--threads 2]
    python benchmarks/ulsad.py --quantiles RUN --category FOLDER [--normals FOLDER]

Random weights and images: the arithmetic does not depend on them. The second form is Figure 7:
what the quantiles alpha and beta (Eq. 9) do to a finished run, from its maps of FOLDER (a category
in MVTec AD's layout) computed once. Quantiles come from --normals; without it from
FOLDER/validation/good (LOCO), else from FOLDER/train/good, which the run trained on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.images import images_in, read_image, read_mask
from adbench.methods.base import load_detector
from adbench.methods.ulsad.attention import attended
from adbench.methods.ulsad.autoencoder import GlobalAutoencoder
from adbench.methods.ulsad.detector import UlsadDetector
from adbench.methods.ulsad.losses import (
    attention_loss,
    local_global_loss,
    local_loss,
    total,
)
from adbench.methods.ulsad.maps import blurred_upsample, normalised, quantiles
from adbench.methods.ulsad.reconstruction import ReconstructionNetwork
from adbench.methods.ulsad.settings import LossKeys
from adbench.metrics.curves import auroc, counted

SIDE, CHANNELS, GRID = 256, 384, 32
ALPHAS, BETAS = (0.5, 0.7, 0.9, 0.95), (0.95, 0.99, 0.995, 0.999)  # Figure 7's are not legible


def seconds(call, repeat):
    call()
    found = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def row(name, value, base=None):
    ratio = f"  x{base / value:.2f}" if base else ""
    print(f"{name:<46}{value * 1e3:10.1f} ms{ratio}", flush=True)


def step_times(arguments):
    backbone = FeatureExtractor(arguments.backbone, ["layer2", "layer3"])
    keys = {"mid": arguments.mid}
    detector = UlsadDetector(backbone, (SIDE, SIDE), CHANNELS, frn=keys).train()
    image = torch.rand(arguments.batch, 3, SIDE, SIDE)
    native = [m.half() for m in detector.native_features(image)]
    u = detector.pooling([m.float() for m in native])
    target = attended(u, u).half()
    trained = [p for p in detector.parameters() if p.requires_grad]
    optimiser, losses = torch.optim.Adam(trained, lr=2e-4), LossKeys()

    def step(cached, dtype=torch.float32):
        optimiser.zero_grad()
        x = detector.pooling([m.float() for m in native]) if cached else detector.features(image)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            (local, second), encoded = detector.frn(x), detector.autoencoder(image)
        local, second, encoded = local.float(), second.float(), encoded.float()
        a = target.float() if cached else attended(x, x)
        parts = {
            "local": local_loss(local, x, losses),
            "global": attention_loss(encoded, x, a, losses),
            "local_global": local_global_loss(second, encoded, losses),
        }
        total(parts).backward()
        optimiser.step()

    plain = seconds(lambda: step(False), arguments.repeat)
    row("step, nothing cached", plain)
    row("step, features and attention cached", seconds(lambda: step(True), arguments.repeat), plain)
    row(
        "  the same, bfloat16 networks",
        seconds(lambda: step(True, torch.bfloat16), arguments.repeat),
        plain,
    )
    detector.frn.to(memory_format=torch.channels_last)
    detector.autoencoder.to(memory_format=torch.channels_last)
    row("  the same, channels last", seconds(lambda: step(True), arguments.repeat), plain)
    row(
        "  the same, channels last and bfloat16",
        seconds(lambda: step(True, torch.bfloat16), arguments.repeat),
        plain,
    )


def part_times(arguments):
    u = torch.randn(arguments.batch, CHANNELS, GRID, GRID)
    frn, ae = ReconstructionNetwork(CHANNELS, _frn_keys(arguments)), _autoencoder()
    image = torch.rand(arguments.batch, 3, SIDE, SIDE)

    def backward(call):
        sum(y.square().mean() for y in call()).backward()

    row(
        "reconstruction network, forward and backward",
        seconds(lambda: backward(lambda: frn(u)), arguments.repeat),
    )
    row(
        "autoencoder, forward and backward",
        seconds(lambda: backward(lambda: [ae(image)]), arguments.repeat),
    )
    last_layer_times(frn.up3.conv, arguments)


def last_layer_times(conv, arguments):
    x = torch.randn(arguments.batch, conv.in_channels, GRID, GRID, requires_grad=True)

    def as_convolution(x):
        weight = conv.weight.flip(2, 3).transpose(0, 1).contiguous()
        return F.conv2d(x, weight, conv.bias, padding=2)

    base = seconds(lambda: conv(x).sum().backward(), arguments.repeat)
    row("last layer, transposed convolution", base)
    row(
        "last layer, ordinary convolution",
        seconds(lambda: as_convolution(x).sum().backward(), arguments.repeat),
        base,
    )


def attention_times(arguments):
    u = torch.randn(arguments.batch, CHANNELS, GRID, GRID)
    query = torch.randn_like(u).requires_grad_()
    base = None
    for kernel in ("full", "fused"):
        value = seconds(
            lambda kernel=kernel: attended(query, u, kernel).sum().backward(), arguments.repeat
        )
        row(f"cross attention, {kernel}, forward and backward", value, base)
        base = base or value


def map_times(arguments):
    grid = torch.rand(arguments.batch, 1, GRID, GRID)
    offset = torch.arange(-16, 17.0)
    line = torch.exp(-0.5 * (offset / 4) ** 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).view(1, 1, 33, 33)

    def dense():
        full = F.interpolate(grid, size=(SIDE, SIDE), mode="bilinear")
        return F.conv2d(F.pad(full, (16,) * 4, mode="reflect"), kernel)

    def two_dense():
        return (dense() + dense()) / 2

    def one_matrix():
        return blurred_upsample((grid + grid) / 2, (SIDE, SIDE), 4.0)

    error = float((two_dense() - one_matrix()).abs().max())
    base = seconds(two_dense, 3 * arguments.repeat)
    row("final map, two dense blurs", base)
    row("final map, one matrix per axis", seconds(one_matrix, 3 * arguments.repeat), base)
    print(f"  largest difference {error:.1e}")


def images_of(paths, size):
    """Pictures one by one, brought to the working size as the data module does."""
    for path in paths:
        pixels = torch.from_numpy(read_image(path)).permute(2, 0, 1)[None] / 255
        yield F.interpolate(pixels, size, mode="area")


def quantile_table(arguments):
    """Image and pixel AUROC for every alpha and beta; every map is computed once."""
    detector, folder = load_detector(arguments.quantiles), Path(arguments.category)
    size = detector.image_size
    normals = arguments.normals or next(
        place for place in (folder / "validation/good", folder / "train/good") if place.is_dir()
    )
    print(f"quantiles from {normals}")
    seen = [detector.raw_maps(image) for image in images_of(images_in(Path(normals)), size)]
    pooled = {name: torch.cat([maps[name] for maps in seen]).numpy() for name in seen[0]}
    paths = [path for defect in sorted((folder / "test").iterdir()) for path in images_in(defect)]
    label = np.array([path.parent.name != "good" for path in paths])
    mask = np.stack([defect_of(path, folder, size) for path in paths])
    grids = [detector.grid_maps(image) for image in images_of(paths, size)]
    print("alpha  beta   image AUROC  pixel AUROC")
    for alpha, beta in itertools.product(ALPHAS, BETAS):
        if alpha >= beta:
            continue
        pairs = {name: quantiles(maps, alpha, beta) for name, maps in pooled.items()}
        found = torch.cat([combined(grid, pairs, detector) for grid in grids])[:, 0].numpy()
        image, pixel = area(found.max((1, 2)), label), area(found.ravel(), mask.ravel())
        print(f"{alpha:<6} {beta:<6} {image:11.4f}  {pixel:11.4f}", flush=True)


def area(scores, positive):
    """AUROC of scores, or NaN without both classes."""
    below = [np.sort(scores[~positive])]
    found = auroc(counted(scores[positive], None, below, float(positive.sum())))
    return float("nan") if found is None else found


def combined(grid, pairs, detector):
    """The final map [1, 1, H, W] of stored grid maps under other quantiles."""
    parts = [normalised(maps, *torch.tensor(pairs[name])) for name, maps in grid.items()]
    mean = torch.stack(parts).mean(0)
    return blurred_upsample(mean, detector.image_size, detector.map.sigma)


def defect_of(path, folder, size):
    """The mask at the working size, nearest; empty for a good image."""
    place = folder / "ground_truth" / path.parent.name
    named = [p for p in images_in(place) if p.stem.startswith(path.stem)] if place.is_dir() else []
    if not named:
        return np.zeros(size, bool)
    whole = read_image(path).shape[:2]
    mask = torch.from_numpy(np.asarray(read_mask(named[:1], whole)))[None, None].float()
    return (F.interpolate(mask, size, mode="nearest")[0, 0] > 0.5).numpy()


def _frn_keys(arguments):
    from adbench.methods.ulsad.settings import FrnKeys

    return FrnKeys(mid=arguments.mid)


def _autoencoder():
    from adbench.methods.ulsad.settings import AutoencoderKeys

    return GlobalAutoencoder(CHANNELS, AutoencoderKeys())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="wide_resnet50_2.tv_in1k")
    parser.add_argument("--mid", type=int, default=None, help="bottleneck width; default 4c")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantiles", metavar="RUN", help="a finished run: Figure 7")
    parser.add_argument("--category", help="its category's folder")
    parser.add_argument("--normals", help="folder of normal images that quantiles come from")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.quantiles:
        with torch.inference_mode():
            quantile_table(arguments)
        return
    print(f"{arguments.backbone}, batch {arguments.batch}, {arguments.threads} threads")
    map_times(arguments)
    attention_times(arguments)
    part_times(arguments)
    step_times(arguments)


if __name__ == "__main__":
    main()
