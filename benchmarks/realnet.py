"""Times RealNet's savings against the forms as written, each pair in one run.

python benchmarks/realnet.py PART [--scale small|paper] [--threads N]
python benchmarks/realnet.py inference --run FOLDER --images FOLDER

PART: afs (bar: 4 times faster) | rrs (bar: 2 times faster, peak 400 MB lower; always at the
paper's widths and batch 16) | step (shares of a training step, plain and fast, equal losses) |
inference (beside the bare backbone; bf16 and channels last with the rank correlation).
Backbone weights are random: they change no time, but a rank correlation needs a trained run and
pictures (--run, --images; 32 of them, evenly spaced). ``small`` is ResNet-18 as in realnet_cpu,
``paper`` Wide ResNet-50 with the paper's widths (12 GB for a step).
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.batch import Batch
from adbench.data.cache import resized_image
from adbench.data.images import is_image
from adbench.methods.base import load_detector
from adbench.methods.realnet.module import RealNetModule
from adbench.methods.realnet.residuals import ResidualSelection
from adbench.synthesis.base import Synthesizer, Synthetic

SCALES = {
    "small": {
        "name": "resnet18",
        "layers": ["layer1", "layer2", "layer3"],
        "dims": [32, 64, 64],
        "recon": {"blocks": 1, "mult": [1, 2, 2], "head_channels": 32},
        "size": 192,
        "batch": 8,
    },
    "paper": {
        "name": "wide_resnet50_2",
        "layers": ["layer1", "layer2", "layer3", "layer4"],
        "dims": [256, 512, 512, 256],
        "recon": {},
        "size": 256,
        "batch": 4,
    },
}


class Squares(Synthesizer):
    """Inverts a quarter of each image: costs nothing, so that the rest is what is timed."""

    def prepare(self, datamodule):
        """Nothing to prepare."""

    def foreground_masks(self, index):
        """Everywhere."""

    def __call__(self, image, *, foreground=None, source=None, generator):
        mask = torch.zeros_like(image[:, :1], dtype=torch.bool)
        mask[..., : image.shape[2] // 2, : image.shape[3] // 2] = True
        count = len(image)
        made = torch.where(mask, 1 - image, image)
        return Synthetic(made, mask, torch.ones(count), torch.ones(count, dtype=torch.bool))


class RandomData:
    """As much of a data module as RealNet reads, over random images."""

    def __init__(self, count: int, size: int) -> None:
        self.images = torch.rand(count, 3, size, size)
        self.train_samples = [None] * count

    def train_images(self, index):
        return self.images[index]

    def train_batches(self, batch_size=4):
        for index in torch.arange(len(self.images)).split(batch_size or 4):
            yield batch_of(self.images[index], index)


def batch_of(image, index):
    names = [""] * len(index)
    return Batch(image, torch.zeros(len(index), dtype=torch.long), index, names, names, names)


def built(scale, *, plain=False, **keys):
    """Return the module at one of the scales."""
    torch.manual_seed(0)
    backbone = FeatureExtractor(name=scale["name"], layers=scale["layers"])
    size = (scale["size"], scale["size"])
    afs = {"dims": scale["dims"], **keys.pop("afs", {})}
    module = RealNetModule(
        backbone=backbone,
        synthesis=Squares(),
        image_size=size,
        seed=0,
        afs=afs,
        recon=scale["recon"],
        as_published=plain,
        **keys,
    )
    return module.train()


def now():
    """Return the wall clock; with one thread the processor's, which other work leaves alone."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(call, repeats=3):
    """Return the least time of ``call``."""
    times = []
    for _ in range(repeats):
        start = now()
        call()
        times.append(now() - start)
    return min(times)


def afs(scale):
    """The whole selection: 16 pairs of 4 images, the share of the paper's 1024 of 209."""
    data = RandomData(4, scale["size"])
    keys = {"batches": 2, "batch": 8}
    found = {}
    for plain in (False, True):
        chooser = built(scale, plain=plain, afs=keys)._chooser(data)
        found[plain] = seconds(chooser.choices, repeats=1 if plain else 2)
    print(f"afs: plain {found[True]:.2f} s, one sweep {found[False]:.2f} s, ", end="")
    print(f"{found[True] / found[False]:.1f} times faster (bar 4)")


def rrs_alone(plain):
    """Forward and backward of the selection; prints seconds and bytes of peak memory added."""
    shapes = ((256, 64), (512, 32), (512, 16), (256, 8))
    blocks = [torch.rand(16, c, s, s).square().requires_grad_() for c, s in shapes]
    gradient = torch.rand(16, 512, 64, 64)
    selection = ResidualSelection(1536, 256, 256, plain=plain).train()
    small = ResidualSelection(1536, 256, 256, plain=plain).train()
    small([b[:1, :, :8, :8] for b in blocks])  # libraries load before the peak is read

    def step():
        selection(blocks).backward(gradient)
        for block in blocks:
            block.grad = None

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = seconds(step, repeats=2)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"seconds": taken, "bytes": (after - before) * 1024}))


def rrs(threads):
    """Each form in a process of its own: the peak of memory is a process's."""
    found = {}
    for form in ("rrs-plain", "rrs-fast"):
        command = [sys.executable, __file__, form, "--threads", str(threads)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[form] = json.loads(out)
    plain, fast = found["rrs-plain"], found["rrs-fast"]
    saved = (plain["bytes"] - fast["bytes"]) / 1e6
    print(f"rrs: plain {plain['seconds']:.2f} s, {plain['bytes'] / 1e6:.0f} MB; ", end="")
    print(f"fast {fast['seconds']:.2f} s, {fast['bytes'] / 1e6:.0f} MB; ", end="")
    print(f"{plain['seconds'] / fast['seconds']:.1f} times faster (bar 2), ", end="")
    print(f"{saved:.0f} MB lower (bar 400)")


def timed_step(module, optimiser, batch, number):
    """Return the loss and the seconds of the parts of one step."""
    clock = [now()]

    def lap():
        clock.append(now())

    damaged = module._damaged(batch, module.generator(number))
    lap()
    features, target = module._features(batch, damaged)
    lap()
    made = module.detector.reconstructed(features)
    lap()
    errors = [(phi - g).square() for phi, g in zip(features, made, strict=True)]
    chosen = module.detector.residuals(errors)
    lap()
    logits = module.detector.discriminator(chosen, module.detector.image_size)
    recon = sum(torch.nn.functional.mse_loss(g, phi) for g, phi in zip(made, target, strict=True))
    loss = recon + torch.nn.functional.cross_entropy(logits, damaged.mask[:, 0].long())
    lap()
    optimiser.zero_grad()
    loss.backward()
    lap()
    optimiser.step()
    lap()
    names = ("synthesis", "backbone", "reconstruction", "rrs", "discriminator", "backward", "adam")
    return loss.item(), dict(zip(names, [b - a for a, b in itertools.pairwise(clock)], strict=True))


def step(scale):
    """Shares of a training step; the same losses in both forms."""
    data = RandomData(scale["batch"], scale["size"])
    batch = next(data.train_batches(scale["batch"]))
    for plain in (True, False):
        module = built(scale, plain=plain, afs={"mode": "rdr"})
        module.prepare(data)
        optimiser = module.configure_optimizers()
        rows = [timed_step(module, optimiser, batch, number) for number in range(3)]
        parts = {k: statistics.median(r[1][k] for r in rows) for k in rows[0][1]}
        total = sum(parts.values())
        shares = ", ".join(f"{name} {value / total:.1%}" for name, value in parts.items())
        losses = " ".join(f"{loss:.5f}" for loss, _ in rows)
        print(f"step {'plain' if plain else 'fast'}: {total:.2f} s, losses {losses}\n  {shares}")


def ranks(x):
    return x.flatten().argsort().argsort().double()


def random_detector(scale):
    """Return an untrained detector and a batch of noise."""
    detector = built(scale, afs={"mode": "rdr"}).detector.eval()
    for net in detector.recon:  # as after training: a zero start would hide the precision
        torch.nn.init.normal_(list(net.parameters())[-2], std=0.02)
    return detector, torch.rand(scale["batch"], 3, scale["size"], scale["size"]).split(100)


def trained_detector(run, folder):
    """Return the detector of a run and 32 pictures below ``folder`` in batches of 8."""
    detector = load_detector(run, torch.device("cpu"))
    paths = sorted(path for path in folder.rglob("*") if is_image(path))
    paths = [paths[i * len(paths) // 32] for i in range(32)]
    pixels = np.stack([resized_image(path, detector.image_size) for path in paths])
    return detector, (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).split(8)


@torch.inference_mode()
def inference(detector, batches):
    """Throughput of the detector and its parts beside the bare backbone."""
    image = batches[0]
    bare = seconds(lambda: detector.backbone(image))
    features = detector.features(image)
    made = detector.reconstructed(features)
    parts = SimpleNamespace(
        reconstruction=seconds(lambda: detector.reconstructed(features)),
        selection_and_discriminator=seconds(lambda: detector.logits(features, made)),
    )
    whole = seconds(lambda: detector(image))
    rate = len(image) / whole
    print(f"inference: {rate:.1f} img/s, bare backbone {len(image) / bare:.1f} img/s")
    for name, value in {"backbone": bare, **vars(parts)}.items():
        print(f"  {name} {value / whole:.1%}")
    reference = margins(detector, batches)
    for last in (False, True):
        if last:
            detector.to(memory_format=torch.channels_last)
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = margins(detector, batches)
                taken = seconds(lambda: detector._image_logits(image))
            rho = correlation(reference, found)
            maxima = correlation(*(x.flatten(1).amax(1) for x in (reference, found)))
            name = f"{'bf16' if half else 'fp32'}{' channels last' if last else ''}"
            print(
                f"  {name}: {len(image) / taken:.1f} img/s, rank correlation of all pixels "
                f"{rho:.5f}, of the maps' maxima {maxima:.5f}"
            )


def margins(detector, batches):
    """Return log-odds of all pixels, [N, H, W]."""
    logits = torch.cat([detector._image_logits(image).float() for image in batches])
    return logits[:, 1] - logits[:, 0]


def correlation(first, second):
    """Return Spearman's coefficient."""
    return torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1].item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("afs", "rrs", "step", "inference", "rrs-plain", "rrs-fast")
    parser.add_argument("part", choices=parts)
    parser.add_argument("--scale", choices=tuple(SCALES), default="small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", type=Path, help="a trained RealNet run, for inference")
    parser.add_argument("--images", type=Path, help="pictures for --run")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    scale = SCALES[chosen.scale]
    if chosen.part.startswith("rrs-"):
        rrs_alone(chosen.part == "rrs-plain")
    elif chosen.part == "rrs":
        rrs(chosen.threads)
    elif chosen.part == "inference":
        trained = chosen.run is not None
        inference(
            *(trained_detector(chosen.run, chosen.images) if trained else random_detector(scale))
        )
    else:
        {"afs": afs, "step": step}[chosen.part](scale)


if __name__ == "__main__":
    main()
