"""How far SDAS images move from the normal ones as the strength s grows.

python benchmarks/sdas.py RUN [--n 16] [--form ancestral|ddim] [--sheet FILE]

RUN is the folder of a run with model=sdas, or of a RealNet run that trained its own model. Images
of every strength share seed and noise, so that s is all that differs. Prints per strength the mean
absolute difference to s = 0 in grey levels, and its standard error over the images; ends with 1
where it does not grow with s. The sheet shows one row of images per strength.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adbench.diffusion.model import SdasModel, load_model
from adbench.diffusion.sampling import Form
from adbench.methods.base import load_detector
from adbench.methods.sdas.detector import SdasDetector

STRENGTHS = (0.0, 0.1, 0.2, 0.5)


def main() -> int:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    model = sdas_model(arguments.run)
    images = {
        s: drawn(model, s, arguments.n, arguments.seed, arguments.form) for s in arguments.strengths
    }
    base = images[arguments.strengths[0]]
    means = []
    for strength, pixels in images.items():
        apart = np.abs(pixels - base).mean((1, 2, 3)) * 255
        means.append(float(apart.mean()))
        error = float(apart.std(ddof=1) / np.sqrt(len(apart)))
        print(f"s = {strength:<4g} mean |difference| {means[-1]:6.3f} +- {error:.3f} levels")
    if arguments.sheet is not None:
        rows = [np.hstack(list(pixels[:8])) for pixels in images.values()]
        sheet = (np.vstack(rows) * 255).round().astype(np.uint8)
        cv2.imwrite(str(arguments.sheet), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    grows = all(a < b for a, b in itertools.pairwise(means))
    print("grows with s" if grows else "does not grow with s")
    return 0 if grows else 1


def sdas_model(run: Path) -> SdasModel:
    """Return the diffusion model of a run folder."""
    if (run / "stages" / "sdas").is_dir():
        return load_model(run / "stages" / "sdas")
    detector = load_detector(run, torch.device("cpu"))
    if not isinstance(detector, SdasDetector):
        sys.exit(f"{run} holds no SDAS model")
    return detector.model.eval()


def drawn(
    model: SdasModel, strength: float, count: int, seed: int, form: Form
) -> NDArray[np.float32]:
    """Return images [n, H, W, 3] in 0..1 of the model's first category."""
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    s = torch.full((count,), strength)
    image = model.images([model.classes[0]] * count, s, generators, form=form)
    return np.asarray(image.permute(0, 2, 3, 1).numpy(), dtype=np.float32)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=16, help="images a strength")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument("--form", choices=("ancestral", "ddim"), default="ancestral")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path, default=None, help="PNG to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
