"""GLASS against itself as published, and against its bare backbone, in one run.

    python benchmarks/glass.py [--backbone resnet18] [--embed 384] [--hypothesis manifold] ...

Training: one epoch (batch 8, 288 px, 20 ascent steps, float32 by default; backbone, LAS images,
optimisers and, for the plain form, the centre pass included), fast and plain by turns.
Inference: the folded detector, map at full size included, against the backbone cut at the same
layer, by turns. Prints medians of wall and of processor seconds as a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from adbench.backbones import FeatureExtractor
from adbench.data.batch import Batch
from adbench.methods.glass.module import GlassModule
from adbench.synthesis.base import Synthesizer, Synthetic


class Patches(Synthesizer):
    """Cheap local anomalies: the clock should run for the method, not for its images."""

    def prepare(self, datamodule):
        pass

    def foreground_masks(self, index):
        return None

    def __call__(self, image, *, foreground=None, source=None, generator):
        batch, _, height, width = image.shape
        mask = torch.zeros(batch, 1, height, width, dtype=torch.bool, device=image.device)
        mask[..., height // 4 : height // 2, width // 4 : width // 2] = True
        ones = torch.ones(batch, device=image.device)
        return Synthetic(torch.where(mask, 1 - image, image), mask, ones, ones > 0)


class Images:
    """As much of a data module as a method reads, made of random images."""

    def __init__(self, count, size, batch_size):
        self.pixels = torch.rand(count, 3, size, size)
        self.image_size, self.batch_size = (size, size), batch_size
        self.train_samples = [None] * count

    def train_batches(self, batch_size=None):
        for start in range(0, len(self.pixels), batch_size or self.batch_size):
            index = torch.arange(start, min(start + self.batch_size, len(self.pixels)))
            names = [""] * len(index)
            label = torch.zeros_like(index)
            yield Batch(self.pixels[index], label, index, names, names, names)


def module(arguments, images, *, plain):
    torch.manual_seed(0)
    built = GlassModule(
        backbone=FeatureExtractor(arguments.backbone, ["layer2", "layer3"]),
        synthesis=Patches(),
        image_size=images.image_size,
        seed=0,
        hypothesis=arguments.hypothesis,
        embed=arguments.embed,
        hidden=arguments.hidden,
        aggregation=arguments.aggregation,
        bn_stats="code",
        gas={"steps": arguments.steps, "as_published": plain, "bf16": arguments.bf16 and not plain},
    ).to(arguments.device)
    built.train()
    optimisers = built.configure_optimizers()
    built.optimizers = lambda: optimisers
    built.prepare(images)
    return built


def epoch(built, images):
    built.on_train_epoch_start()
    for number, batch in enumerate(images.train_batches()):
        built.training_step(batch.to(built.device), number)


def timed(call):
    synchronise()
    wall, work = time.perf_counter(), time.process_time()
    call()
    synchronise()
    return time.perf_counter() - wall, time.process_time() - work


def synchronise():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def by_turns(calls, repeats):
    found = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            found[name].append(timed(call))
    return {
        name: tuple(statistics.median(values) for values in zip(*pairs, strict=True))
        for name, pairs in found.items()
    }


def training(arguments):
    images = Images(arguments.images, arguments.size, arguments.batch)
    built = {kind: module(arguments, images, plain=kind == "plain") for kind in ("fast", "plain")}
    for each in built.values():
        each.training_step(next(iter(images.train_batches())).to(each.device), 0)
    calls = {kind: (lambda m=m: epoch(m, images)) for kind, m in built.items()}
    found = by_turns(calls, arguments.repeats)
    report("training, one epoch", found, "plain", "fast")


def inference(arguments):
    images = Images(arguments.batch, arguments.size, arguments.batch)
    built = module(arguments, images, plain=True).eval()
    built.refresh()
    pixels = images.pixels.to(arguments.device)

    @torch.inference_mode()
    def run(network):
        network(pixels)

    for network in (built.detector, built.detector.backbone):
        run(network)
    calls = {
        "detector": lambda: run(built.detector),
        "backbone": lambda: run(built.detector.backbone),
    }
    report("inference, one batch", by_turns(calls, arguments.passes), "backbone", "detector")


def report(title, found, slow, quick):
    print(f"\n| {title} | wall s | processor s |\n|---|---|---|")
    for name, (wall, work) in found.items():
        print(f"| {name} | {wall:.3f} | {work:.3f} |")
    ratios = [a / b for a, b in zip(found[slow], found[quick], strict=True)]
    print(f"| {slow} / {quick} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--embed", type=int, default=384, help="feature columns C")
    parser.add_argument("--hidden", type=int, default=1024, help="hidden width H")
    parser.add_argument("--aggregation", default="code", choices=["code", "paper"])
    parser.add_argument("--hypothesis", default="manifold", choices=["manifold", "hypersphere"])
    parser.add_argument("--size", type=int, default=288, help="pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=8, help="images of an epoch")
    parser.add_argument("--steps", type=int, default=20, help="ascent steps")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each form")
    parser.add_argument("--passes", type=int, default=15, help="batches of each at inference")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="fast form: bfloat16 ascent direction")
    parser.add_argument("--only", choices=["training", "inference"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.backbone}, C={arguments.embed}, H={arguments.hidden}, "
        f"{arguments.hypothesis}, {arguments.size} px, batch {arguments.batch}, "
        f"{arguments.steps} steps, {arguments.threads} threads, {arguments.device}"
    )
    if arguments.only != "inference":
        training(arguments)
    if arguments.only != "training":
        inference(arguments)


if __name__ == "__main__":
    main()
