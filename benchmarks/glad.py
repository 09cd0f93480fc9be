"""Times GLAD's savings against the forms as written, each pair in one run.

python benchmarks/glad.py PART [--threads N]
python benchmarks/glad.py inference|search|half|steps --run FOLDER --images FOLDER [--count N]
    [--walk steps=25 end=250 second_pass=true]

PART: maps (upsampling, sum and blur as one product per axis) | tokens (running maximum of cosines
in chunks, both directions) | latents (a training step from the bank against damaging and encoding
anew) | prompts (keys and values once a prompt) | compaction (undecided images alone) | search
(walk against last_first, bisect and the gate: passes, comparisons, seconds, other steps) |
inference (seconds an image: network, autoencoder, features, rest) | half (bf16 with the rank
correlation of maps) | steps (chosen level against the size
of planted defects). The last four need a trained run and a folder of pictures; pictures below a
folder `good` count as normal.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.batch import Batch
from adbench.data.cache import resized_image
from adbench.data.images import is_image
from adbench.diffusion.latent.ddim import Ddim
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.methods.base import load_detector
from adbench.methods.glad.adaptive_steps import AdaptiveSteps, Rules
from adbench.methods.glad.calibration import differences
from adbench.methods.glad.latents import LatentPairs
from adbench.methods.glad.maps import smoothed
from adbench.methods.glad.tokens import nearest_distances
from adbench.synthesis.memseg import MemSeg


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


def told(name, plain, fast, note=""):
    ratio = f"{plain / fast:.1f} times faster"
    print(f"{name}: plain {plain * 1e3:.1f} ms, fast {fast * 1e3:.1f} ms, {ratio} {note}".rstrip())


def maps():
    """Four 64 x 64 maps of four images at 512 px, sigma 6."""
    layers = [torch.rand(4, 1, 64, 64) for _ in range(4)]
    offset = torch.arange(-24, 25).float()
    kernel = torch.exp(-0.5 * (offset / 6) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)

    def plain():  # the blur already as two thin ones
        size = (512, 512)
        wide = [F.interpolate(x, size, mode="bilinear", align_corners=True) for x in layers]
        padded = F.pad(torch.stack(wide).sum(0), (24,) * 4, mode="reflect")
        return F.conv2d(F.conv2d(padded, kernel), kernel.mT)

    def fast():
        return smoothed(torch.stack(layers).sum(0), (512, 512), 6.0)

    error = float((plain() - fast()).abs().max())
    told("maps", seconds(plain), seconds(fast), f"(largest difference {error:.0e})")


def tokens():
    """4096 tokens of width 768 against 4096, both directions."""
    first, second = torch.randn(1, 4096, 768), torch.randn(1, 4096, 768)

    def plain():
        there = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT
        back = F.normalize(second, dim=-1) @ F.normalize(first, dim=-1).mT
        return 1 - there.amax(2), 1 - back.amax(2)

    def fast():
        return nearest_distances(first, second, 512)

    error = max(float((a - b).abs().max()) for a, b in zip(plain(), fast(), strict=True))
    held = 2 * 4096 * 4096 * 4 / 1e6, 4096 * 512 * 4 / 1e6
    note = f"({held[0]:.0f} MB of cosines against {held[1]:.0f}, largest difference {error:.0e})"
    told("tokens", seconds(plain), seconds(fast), note)


class Pictures:
    """As much of a data module as the bank reads."""

    def __init__(self, count, size):
        self.images = torch.rand(count, 3, size, size)

    def train_batches(self):
        for index in torch.arange(len(self.images)).split(8):
            names = [""] * len(index)
            yield Batch(self.images[index], torch.zeros(len(index)), index, names, names, names)


def small_diffusion(kind="small"):
    torch.manual_seed(0)
    network = {"widths": [32, 64, 128]}
    return ScratchDiffusion(autoencoder={"kind": kind}, network=network).eval()


def latents():
    """Drawing the latents of a batch of 16, and the network's step beside it."""
    model, data = small_diffusion(), Pictures(16, 256)
    synthesis = MemSeg(textures={"source": "procedural", "count": 16})
    synthesis.textures.prepare(data)
    batch = next(Batch(data.images, *_labels(16)) for _ in (0,))
    found = {}
    for bank in (0, 4):
        pairs = LatentPairs(model, synthesis, bank, torch.device("cpu"))
        if bank:
            pairs.fill(data, 0)
        found[bank] = seconds(lambda pairs=pairs: pairs(batch, 0.5, (0, 1)))
    told("latents", found[0], found[4])
    latent, steps = torch.randn(16, model.channels, 32, 32), torch.randint(1000, (16,))

    def step():
        label = torch.zeros(16, dtype=torch.long)
        model.output(model.network, latent, steps, label).square().mean().backward()

    network = seconds(step)
    print(f"  a step of the network {network * 1e3:.0f} ms: the whole step ", end="")
    print(f"{(network + found[0]) / (network + found[4]):.2f} times faster")


def _labels(count):
    names = [""] * count
    return torch.zeros(count), torch.arange(count), names, names, names


@torch.inference_mode()
def prompts():
    """Cross-attention of a small text-conditioned U-Net, eight images, one prompt."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import AttnProcessor2_0

    from adbench.diffusion.latent.prompt_attention import share_prompts

    torch.manual_seed(0)
    network = UNet2DConditionModel(
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=768,
        attention_head_dim=8,
    ).eval()
    latent, told_, time_ = torch.randn(8, 4, 16, 16), torch.randn(1, 77, 768), torch.tensor([5] * 8)

    def plain():
        return network(latent, time_, encoder_hidden_states=told_.expand(8, -1, -1)).sample

    rows = {"prompt_rows": torch.zeros(8, dtype=torch.long)}

    def fast():
        return network(
            latent, time_, encoder_hidden_states=told_, cross_attention_kwargs=rows
        ).sample

    network.set_attn_processor(AttnProcessor2_0())
    slow, expected = seconds(plain), plain()
    share_prompts(network)
    error = float((fast() - expected).abs().max())
    told("prompts", slow, seconds(fast), f"(largest difference {error:.0e})")


@torch.inference_mode()
def compaction():
    """A batch of eight of which one image is undecided to the end."""
    model, features = small_diffusion("pca"), FeatureExtractor("resnet18", ["layer2", "layer3"])
    from adbench.methods.glad.detector import GladDetector

    keys = {"start": 500, "stop": 100, "steps": 10}
    detector = GladDetector(features, model, (256, 256), keys)
    image = torch.rand(8, 3, 256, 256)
    latent = model.encode(image)
    noise = torch.randn_like(latent)
    compare = detector.compared

    def scripted(rows):
        def compared(test, walk):
            found = compare(test, walk)
            score = torch.where(torch.arange(len(test)) == 0, 0.0, 1.0)  # image 0 never crosses
            return found._replace(score=score if rows else found.score * 0)

        return compared

    def walked(rows):
        ddim = Ddim(model.schedule, 500, 10)
        predict = detector._predictor(image)
        return AdaptiveSteps(ddim, predict, scripted(rows), Rules(0.5, 100))(latent, noise)

    told("compaction", seconds(lambda: walked(False), 1), seconds(lambda: walked(True), 1))


def read_pictures(folder, size, count):
    """Return pictures [N, 3, H, W] evenly spaced below ``folder`` and which are normal."""
    paths = sorted(path for path in folder.rglob("*") if is_image(path))
    good = [path for path in paths if path.parent.name == "good"]
    bad = [path for path in paths if path.parent.name != "good"]
    chosen = [
        side[i * len(side) // count] for side in (good, bad) for i in range(min(count, len(side)))
    ]
    pixels = np.stack([resized_image(path, size) for path in chosen])
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return image, torch.tensor([path in set(good) for path in chosen])


@torch.inference_mode()
def change_walk(detector, words, normal):
    """Set keys of the walk; delta anew on the normal pictures given, for costs only."""
    keys = detector.keys
    for name, value in (word.split("=") for word in words):
        if name == "second_pass":
            keys = replace(keys, ads=replace(keys.ads, second_pass=value == "true"))
        else:
            keys = replace(keys, **{name: int(value)})
    detector.keys = keys
    largest = differences(detector, normal).score.amax(1)
    detector.settle(delta=keys.ads.margin * float(largest.quantile(keys.ads.quantile)))


@torch.inference_mode()
def search(detector, image, normal):
    """Costs of each search, normal and anomalous images apart, beside the walk's decisions.

    The gate is the smallest latent difference at which planted discs are seen.
    """
    reference, generator = None, torch.Generator().manual_seed(0)
    discs = [planted(image[normal], radius, generator) for radius in (8, 32)]
    walks = [differences(detector, some) for some in discs]
    seen = [walk.latent[walk.score > detector.settled.delta] for walk in walks]
    found = torch.cat(seen)
    detector.settle(gate=float(found.min()) if len(found) else 0.0)
    sums = {}
    print(f"gate {detector.settled.gate:.4f}, delta {detector.settled.delta:.4f}")
    for name, gate in (
        ("sequential", False),
        ("last_first", False),
        ("bisect", False),
        ("sequential", True),
    ):
        ads = replace(detector.keys.ads, search=name, gate=gate)
        detector.keys = replace(detector.keys, ads=ads)
        index, maps_ = [], []
        for flag, kind in ((True, "normal"), (False, "anomalous")):
            some = image[normal == flag]
            start, passes, comparisons = now(), 0, 0
            for one in some.split(4):
                found = detector.reconstructed(one)
                passes += found.cost.passes
                comparisons += found.cost.comparisons
                index.append(torch.where(found.decision.crossed, found.decision.index, -1))
                maps_.append(detector.anomaly_map(one, found.image))
            taken = (now() - start) / max(1, len(some))
            total = (passes + 2 * comparisons) / len(some) + 2  # to encode, to decode
            sums.setdefault(kind, []).append((total, taken))
            print(
                f"{name}{' with gate' if gate else ''}, {kind}: {passes / len(some):.1f} network "
                f"passes, {2 * comparisons / len(some):.1f} decodings to compare, {taken:.2f} s"
            )
        all_index, all_maps = torch.cat(index), torch.cat(maps_)
        if reference is None:
            reference = all_index, all_maps
        other = float((all_index != reference[0]).float().mean())
        off = float((all_maps - reference[1]).abs().max())
        print(
            f"  other steps than the walk {other:.1%}, largest difference of maps {off:.1e}", end=""
        )
        for kind, found in sums.items():
            (more, slow), (less, fast) = found[0], found[-1]
            print(
                f"; {kind}: {more / less:.2f} times fewer passes, {slow / fast:.2f} faster", end=""
            )
        print()


@contextlib.contextmanager
def clocked(detector, spent):
    """Add up the seconds of the network, the autoencoder and the features."""
    model = detector.diffusion
    places = (
        (model, "noise", "network"),
        (model, "encode", "autoencoder"),
        (model, "decode", "autoencoder"),
        (detector.backbone, "forward", "features"),
    )
    kept = [getattr(owner, name) for owner, name, _ in places]

    def timed(call, part):
        def run(*arguments, **keys):
            start = now()
            found = call(*arguments, **keys)
            spent[part] += now() - start
            return found

        return run

    for (owner, name, kind), call in zip(places, kept, strict=True):
        object.__setattr__(owner, name, timed(call, kind))
    yield
    for owner, name, _ in places:
        object.__delattr__(owner, name)


@torch.inference_mode()
def inference(detector, image, normal):
    """Seconds an image by part, normal and anomalous apart."""
    for flag, kind in ((True, "normal"), (False, "anomalous")):
        some, spent = image[normal == flag], defaultdict(float)
        if not len(some):
            continue
        detector(some[:1])
        with clocked(detector, spent):
            start = now()
            for one in some.split(4):
                detector(one)
            whole = now() - start
        spent["rest"] = whole - sum(spent.values())
        parts = ", ".join(f"{name} {value / len(some):.3f}" for name, value in spent.items())
        print(f"{kind}: {whole / len(some):.3f} s an image ({parts})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of the process {peak:.2f} GB")


@torch.inference_mode()
def half(detector, image, _):
    """bf16 against float32: time and rank correlation of all pixels and of the scores."""
    found = {}
    for precision in ("float32", "bfloat16"):
        detector.keys = replace(detector.keys, precision=precision)
        start = now()
        parts = [detector(one) for one in image.split(4)]
        taken = (now() - start) / len(image)
        found[precision] = (
            torch.cat([p.anomaly_map for p in parts]),
            torch.cat([p.score for p in parts]),
            taken,
        )
    full, short = found["float32"], found["bfloat16"]
    told("half", full[2], short[2])
    print(f"  rank correlation of pixels {correlation(full[0], short[0]):.4f}, ", end="")
    print(f"of scores {correlation(full[1], short[1]):.4f}")


def correlation(first, second):
    """Return Spearman's coefficient."""
    ranks = [x.flatten().argsort().argsort().double() for x in (first, second)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def planted(image, radius, generator):
    """Return images [N, 3, H, W] with a disc of another picture's colours, and its area."""
    height, width = image.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    made = image.clone()
    for number in range(len(image)):
        y, x = (
            torch.randint(s // 4, 3 * s // 4, (1,), generator=generator) for s in (height, width)
        )
        disc = (rows - y).square() + (columns - x).square() <= radius**2
        noise = torch.rand(3, 16, 16, generator=generator)
        source = F.interpolate(noise[None], (height, width), mode="bilinear")[0]
        made[number] = torch.where(disc, 0.3 * image[number] + 0.7 * source, image[number])
    return made


@torch.inference_mode()
def steps(detector, image, normal):
    """Chosen level against the size of planted defects: rank correlation."""
    generator = torch.Generator().manual_seed(0)
    times, sizes = [], []
    for radius in (0, 2, 4, 8, 16, 32, 64):
        levels = []
        for one in planted(image[normal], radius, generator).split(4):
            decision = detector.reconstructed(one).decision
            level = torch.tensor(detector.ddim.times)[decision.index]
            levels.append(torch.where(decision.crossed, level, 0))
        times.append(torch.cat(levels))
        sizes.append(torch.full_like(times[-1], radius))
        print(f"radius {radius} px: mean level {times[-1].float().mean():.0f}")
    from scipy.stats import spearmanr

    print(f"rank correlation {spearmanr(torch.cat(sizes), torch.cat(times)).statistic:.3f}")


ALONE = {f.__name__: f for f in (maps, tokens, latents, prompts, compaction)}
TRAINED = {f.__name__: f for f in (search, inference, half, steps)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=(*ALONE, *TRAINED, "all"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, help="a trained GLAD run")
    parser.add_argument("--images", type=Path, help="pictures for --run")
    parser.add_argument("--walk", nargs="+", metavar="KEY=VALUE", help="steps=25 end=250 and so on")
    parser.add_argument("--count", type=int, default=12, help="pictures of each kind")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for name, call in ALONE.items():
        if chosen.part in (name, "all"):
            call()
    if chosen.part in TRAINED:
        detector = load_detector(chosen.run)
        call = TRAINED[chosen.part]
        image, normal = read_pictures(chosen.images, detector.image_size, chosen.count)
        if chosen.walk:
            change_walk(detector, chosen.walk, image[normal])
        call(detector, image, normal)


if __name__ == "__main__":
    main()
