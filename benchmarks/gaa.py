"""GAA measured: clusters planted and found, pairs against their controls, the table of the arms.

python benchmarks/gaa.py clusters
python benchmarks/gaa.py pairs RUN
python benchmarks/gaa.py table ROOT
python benchmarks/gaa.py cost RUN
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adbench.config.schema import settings
from adbench.data.opening import chosen_categories, read_samples
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.chain import all_pictures, tensors
from adbench.methods.gaa.clustering import candidates, chosen_number
from adbench.methods.gaa.features import colour
from adbench.methods.gaa.pairs import read_pair, read_rows
from adbench.methods.gaa.scorer import Scorer
from adbench.methods.gaa.units import Picture, RealDefects
from adbench.metrics.generation import Generated, figures_of
from adbench.runs.folder import open_run
from adbench.training.build import build_module, build_synthesis
from adbench.training.data import build_datamodule
from adbench.training.testing import unseen

_ARMS = ("real", "draem", "canvases", "none", "scratch")
_TYPES, _PAIRS = 73, 1000  # of MVTec AD, as the paper generates them


def clusters() -> None:
    """Print how often each rule finds the number in 90 planted sets, k = 2 to 6."""
    right = {"ours": 0, "paper_literal": 0}
    for number in range(90):
        k = 2 + number % 5
        rng = np.random.default_rng([number, 0x9A])
        centres = 3 * rng.standard_normal((k, 16))
        x = np.concatenate([c + rng.standard_normal((max(30 // k, 5), 16)) for c in centres])
        splits = candidates(x, 0)
        for score in right:
            right[score] += chosen_number(splits, score, 0.5, 0.5) == k
    print(f"planted sets, k found: ours {right['ours']}/90, as printed {right['paper_literal']}/90")


class Run:
    """A finished chain, opened.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        run, self.config = open_run(folder)
        keys = settings(self.config)
        samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
        samples = unseen(run, samples, elsewhere=False, say=print)
        self.data = build_datamodule(keys, samples).without_test()
        module: Any = build_module(self.config, keys)
        self.chain = module.chain()
        self.stages = run.path / "stages"
        self.real = RealDefects.read(self.stages / "cluster")
        self.rows = read_rows(self.stages / "filter", "scored.jsonl")
        self.canvases = all_pictures(self.data)
        self.pairs = [read_pair(self.stages / "generate", row) for row in self.rows]

    def scorer(self) -> Scorer:
        scorer = Scorer(self.chain.backbone, self.chain.keys.filter)
        scorer.load(self.stages / "filter" / "scorer.safetensors")
        return scorer

    @property
    def kept(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row["kept"]]


def pairs(folder: Path) -> None:
    """Print what the pairs of a run are worth, and the generation metrics with their controls."""
    run = Run(folder)
    made = json.loads((run.stages / "generate" / "made.json").read_text())
    print(f"base {made['base']}: {made['pairs']} pairs, {made['pairs_per_second']} a second")
    _scores(run)
    _control(run)
    _metrics(run)


def _scores(run: Run) -> None:
    """ARS of pairs against that of their canvases in the same masks; kept against dropped."""
    scorer, higher = run.scorer(), 0
    before = [m for b in tensors(run.canvases, torch.device("cpu")) for m in scorer(b).numpy()]
    for row, (_, mask) in zip(run.rows, run.pairs, strict=True):
        higher += row["ars"] > before[row["canvas"]][mask].mean()
    print(f"ARS above the untouched canvas's in the same mask: {higher / len(run.rows):.1%}")
    # independent of the scorer: colour contrast of the mask against its ring
    contrast = [float(np.abs(colour(image, mask)[:3]).sum()) for image, mask in run.pairs]
    kept = set(run.kept)
    inside = np.mean([c for i, c in enumerate(contrast) if i in kept])
    out = np.mean([c for i, c in enumerate(contrast) if i not in kept] or [np.nan])
    print(f"colour contrast to the ring: kept {inside:.1f}, dropped {out:.1f}")


def _control(run: Run) -> None:
    """Position, outside, small masks, and whether a defect has the colours of its cluster."""
    rows = [run.rows[i] for i in run.kept]
    print(
        f"centre of the change inside the mask's hull: {np.mean([r['centred'] for r in rows]):.1%}"
    )
    print(
        f"change outside, levels of 256: {np.mean([r['out_px'] for r in rows]):.4f}; "
        f"median share of the mask changed: {np.median([r['fill'] for r in rows]):.2f}"
    )
    centres: dict[int, list[Any]] = defaultdict(list)
    for unit in run.real.units:
        own = colour(run.real.images[unit.picture], run.real.mask_of(unit))
        centres[unit.cluster].append(own)
    table = {name: np.mean(values, 0) for name, values in centres.items()}
    spread = np.std([v for values in centres.values() for v in values], 0) + 1e-6
    right = total = 0
    for i in run.kept:
        parts = run.rows[i]["parts"]
        if len(parts) > 1 or len(table) < 2:
            continue
        found = colour(*run.pairs[i])
        near = min(table, key=lambda n: float((((found - table[n]) / spread) ** 2).sum()))
        right, total = right + (near == parts[0]["cluster"]), total + 1
    if total:
        print(f"colours nearest to the own cluster: {right / total:.1%} of {total} kept pairs")
    own = [
        min(table, key=lambda n: float((((v - table[n]) / spread) ** 2).sum())) == name
        for name, values in centres.items()
        for v in values
    ]
    print(f"(of the real components themselves: {np.mean(own):.1%} of {len(own)})")


def _features(run: Run, images: Sequence[Picture]) -> Any:
    backbone = run.chain.backbone
    with torch.no_grad():
        parts = [
            torch.cat([m.float().mean((2, 3)) for m in backbone(batch)], 1)
            for batch in tensors(list(images), torch.device("cpu"))
        ]
    return torch.cat(parts).double().numpy()


def _metrics(run: Run) -> None:
    """Print generation metrics: all pairs, kept ones, Perlin pictures, plain copies, canvases."""
    record = run.chain.backbone.record
    count = min(len(run.kept), 200)
    synthesis = build_synthesis(_draem(run))
    assert synthesis is not None
    synthesis.prepare(run.data)
    generator = seeded_generator("cpu", 0, 0xD4A)
    perlin: list[Picture] = []
    for batch in run.data.train_batches():
        drawn = synthesis(batch.image, generator=generator).image
        perlin += [(p.permute(1, 2, 0) * 255).round().byte().numpy() for p in drawn]
    sets = {
        "all pairs": [image for image, _ in run.pairs][:count],
        "kept pairs": [run.pairs[i][0] for i in run.kept][:count],
        "control: Perlin (draem)": perlin[:count],
        "control: plain copies": (run.real.images * count)[:count],
        "control: bare canvases": run.canvases[:count],
    }
    real = _features(run, run.real.images)
    for name, images in sets.items():
        row: Generated = figures_of(
            name,
            _features(run, images),
            real,
            network=str(record["name"]),
            sha256=record.get("sha256"),
            seed=0,
        )
        told = ", ".join(f"{key} {value:.4g}" for key, value in row.figures.items())
        print(f"{name} ({row.images} images): {told}")


def _draem(run: Run) -> dict[str, Any]:
    from adbench.config.compose import compose_config

    del run
    found: dict[str, Any] = compose_config("train", ["synthesis=draem"])["synthesis"]
    return found


def table(root: Path) -> None:
    """Print the figures of the arms (folders ARM-SEED below ROOT), and paired differences."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path in sorted(root.rglob("metrics.json")):
        arm, _, seed = path.parent.name.partition("-")
        if arm in _ARMS:
            found[arm][seed] = json.loads(path.read_text(encoding="utf-8"))
    for arm in _ARMS:
        for seed, document in sorted(found[arm].items()):
            pixel, image = document["pixel"], document["image"]
            named = document.get("types") or {}
            accuracy = named.get("accuracy")
            print(
                f"{arm:9} seed {seed}: pixel AUROC {pixel['auroc']:.3f} AP {pixel['ap']:.3f} "
                f"F1 {pixel['f1max']:.3f} AUPRO {pixel['aupro_30']:.3f} "
                f"image AUROC {image['auroc']:.3f} "
                + (f"types {accuracy:.3f} of {named['images']}" if accuracy is not None else "")
            )
    for one, other in (("none", "draem"), ("none", "real"), ("scratch", "none")):
        seeds = sorted(set(found[one]) & set(found[other]))
        gains = [found[one][s]["pixel"]["ap"] - found[other][s]["pixel"]["ap"] for s in seeds]
        if gains:
            told = ", ".join(f"{g:+.3f}" for g in gains)
            print(f"AP of {one} above {other}, by seed: {told}; mean {np.mean(gains):+.3f}")


def cost(folder: Path) -> None:
    """Print what 1000 pairs of 73 types would take at the measured rate."""
    stages = folder / "stages"
    made = json.loads((stages / "generate" / "made.json").read_text())
    rate = made["pairs_per_second"]
    hours = _TYPES * _PAIRS / rate / 3600
    print(f"{made['base']}: {rate} pairs a second, {hours:.1f} h for {_TYPES} x {_PAIRS} pairs")
    for card in sorted(stages.glob("*/stage.json")):
        print(f"  {card.parent.name}: {json.loads(card.read_text())['seconds']} s")


def main(words: Sequence[str]) -> int:
    """Run one measurement."""
    torch.set_num_threads(1)
    match list(words):
        case ["clusters"]:
            clusters()
        case ["pairs", folder]:
            pairs(Path(folder))
        case ["table", root]:
            table(Path(root))
        case ["cost", folder]:
            cost(Path(folder))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
