"""Scores a trained GLAD run again under other keys of inference, constants settled anew each time.

    python benchmarks/glad_rows.py RUN --sweep conf/sweep/glad_table4.yaml [--only WORD...]
    python benchmarks/glad_rows.py RUN --row "fixed 500: model.reconstruct=fixed model.start=500"
    python benchmarks/glad_rows.py RUN --control   # the same metric of features, no reconstruction

Rows that train otherwise than RUN (ATP, prediction) would be wrong here: those need a training of
their own (`adbench sweep`). --seeds N repeats each row with other noise in the walk; network, split
and composites stay.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import yaml

from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.data.opening import chosen_categories, read_samples
from adbench.methods.base import load_detector
from adbench.methods.glad.calibration import fit_residuals, training_images
from adbench.training.build import build_module
from adbench.training.data import build_datamodule
from adbench.training.evaluate import evaluate

CPU = torch.device("cpu")


def rescored(run, overrides, seed, control=False):
    """Return what the keys settled, and the metrics."""
    config = compose_config(
        "train", [*yaml.safe_load((run / "overrides.yaml").read_text()), *overrides]
    )
    keys = settings(config)
    samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
    datamodule = build_datamodule(keys, samples)
    module, trained = build_module(config, keys).eval(), load_detector(run)
    if module.detector.diffusion.classes != trained.diffusion.classes:
        generator = torch.Generator().manual_seed(0)
        module.detector.diffusion.set_classes(trained.diffusion.classes, generator)
    module.detector.diffusion.load_state_dict(trained.diffusion.state_dict())
    module.detector.centres = trained.centres
    module.detector.seed = seed
    module.detector.requires_grad_(False)
    if module.synthesis is not None:
        module.synthesis.prepare(datamodule.without_test())
    if control:
        without_reconstruction(module.detector)
        fit_residuals(module.detector, training_images(datamodule, CPU))
    else:
        module.finish(datamodule.without_test())
    found = evaluate(module.detector.eval(), datamodule, keys.metrics, CPU).metrics
    return module.detector.settled, found


def without_reconstruction(detector):
    """Let every reconstruction have features of zero: what is left is the metric."""
    pairs = detector.feature_pairs

    def bare(image, made):
        first, _ = pairs(image, made)
        return first, [torch.zeros_like(maps) for maps in first]

    detector.feature_pairs = bare


def told(name, seed, settled, found, seconds):
    """Print a row of a Markdown table."""
    figures = (found["image"]["auroc"], *(found["pixel"][k] for k in ("auroc", "ap", "aupro_30")))
    values = " / ".join(f"{value:.3f}" for value in figures)
    by = ", ".join(f"{k} {v['image']['auroc']:.2f}" for k, v in found["by_defect"].items())
    chosen = f"T={settled.start} n={settled.restart} K={settled.top}"
    print(f"| {name} | {seed} | {values} | {chosen} | {by} | {seconds:.0f} s |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--sweep", type=Path, help="a file of rows")
    parser.add_argument("--only", nargs="+", help="rows of the sweep by name")
    parser.add_argument("--row", action="append", default=[], help="NAME: OVERRIDES")
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = {}
    if chosen.sweep:
        rows = yaml.safe_load(chosen.sweep.read_text())["rows"]
        rows = {name: rows[name] for name in chosen.only or rows}
    for row in chosen.row:
        name, _, overrides = row.partition(":")
        rows[name] = overrides.split()
    if chosen.control:
        rows["no reconstruction: the metric alone"] = ["model.reconstruct=none"]
    print(
        "| row | noise | image AUROC / pixel AUROC / AP / AUPRO 0.3 | settled | by defect | time |"
    )
    print("|---|---|---|---|---|---|")
    for name, overrides in rows.items():
        control = name.startswith("no reconstruction")
        for seed in range(1 if control else chosen.seeds):
            start = time.perf_counter()
            result = rescored(chosen.run, overrides, seed, control)
            told(name, seed, *result, time.perf_counter() - start)


if __name__ == "__main__":
    main()
