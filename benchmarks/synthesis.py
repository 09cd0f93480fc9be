"""Synthetic images a second, for every synthesizer of the group; nothing is decoded.

Usage: python benchmarks/synthesis.py [SIDE] [BATCH] [SECONDS]

Prints one line each and ends with 1 where LAS stays below its bar of 150 images a second at
256 px. CPU seconds are printed beside: on a shared machine they tell what an idle one would do.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import yaml

from adbench.synthesis.base import Synthesizer
from adbench.synthesis.mixture import built
from adbench.synthesis.textures import ProceduralTextures

BAR = 150.0
GROUP = Path(__file__).parents[1] / "conf" / "synthesis"
NAMES = ("las", "draem", "memseg", "cutpaste", "cutpaste_scar", "nsa")


def images_per_second(
    synthesizer: Synthesizer, image: torch.Tensor, seconds: float
) -> tuple[float, float]:
    """Return images per second of wall time and CPU milliseconds per image."""
    generator = torch.Generator().manual_seed(0)
    synthesizer(image, generator=generator)
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        synthesizer(image, generator=generator)
        done += len(image)
    spent = time.perf_counter() - wall
    return done / spent, (time.process_time() - cpu) / done * 1e3


def fill(synthesizer: Synthesizer, size: tuple[int, int]) -> float:
    """Generate the whole bank of textures, where there is one; return the seconds."""
    textures = getattr(synthesizer, "textures", None)
    bank = getattr(textures, "source", textures)  # the adapter of colours holds the bank
    start = time.perf_counter()
    if isinstance(bank, ProceduralTextures):
        for number in range(-(-bank.count // bank.block)):
            bank._block(number, size, torch.device("cpu"))
    return time.perf_counter() - start


def main() -> int:
    given = [float(value) for value in sys.argv[1:]]
    side, batch, seconds = [*given, *(256, 16, 5.0)[len(given) :]]
    side, batch = int(side), int(batch)
    image = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    print(f"{side} px, batch {batch}, {torch.get_num_threads()} threads")
    rate = 0.0
    for name in NAMES:
        section = yaml.safe_load((GROUP / f"{name}.yaml").read_text(encoding="utf-8"))
        synthesizer = built(name, section)
        assert synthesizer is not None
        once = fill(synthesizer, (side, side))
        per_second, cpu = images_per_second(synthesizer, image, seconds)
        rate = per_second if name == "las" else rate
        print(
            f"{name:14} {per_second:7.0f} images/s {cpu:7.2f} CPU ms/image, textures {once:.1f} s"
        )
    print(f"las: {rate:.0f} images/s, bar {BAR:.0f} at 256 px on two cores")
    return int(side == 256 and rate < BAR)


if __name__ == "__main__":
    sys.exit(main())
