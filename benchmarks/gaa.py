"""GAA measured: clusters planted and found, pairs against their controls, the table of the arms.

python benchmarks/gaa.py clusters
python benchmarks/gaa.py pairs RUN
python benchmarks/gaa.py table ROOT
python benchmarks/gaa.py small RUN
python benchmarks/gaa.py cost RUN
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adbench.config.schema import settings
from adbench.data.opening import chosen_categories, read_samples
from adbench.diffusion.latent.inpainting import latent_mask
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.chain import all_pictures, tensors
from adbench.methods.gaa.clustering import candidates, chosen_number
from adbench.methods.gaa.features import colour, own_colour
from adbench.methods.gaa.masks import Part, Plan
from adbench.methods.gaa.pairs import read_pair, read_rows
from adbench.methods.gaa.scorer import Scorer
from adbench.methods.gaa.units import Picture, RealDefects
from adbench.methods.gaa.windows import brought_mask, window_around
from adbench.metrics.generation import inception_score, kin_share, table_of
from adbench.runs.folder import open_run
from adbench.training.build import build_module, build_synthesis
from adbench.training.data import build_datamodule
from adbench.training.testing import unseen

_ARMS = ("real", "draem", "canvases", "none", "scratch")
_GAINS = (("none", "draem"), ("none", "real"), ("scratch", "draem"), ("scratch", "none"))
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
    _type_control(run)


def _type_control(run: Run) -> None:
    """Whether the real component that a defect's colours are nearest to is of its own cluster."""
    known = np.stack(
        [own_colour(run.real.images[u.picture], run.real.mask_of(u)) for u in run.real.units]
    )
    kinds = np.array([unit.cluster for unit in run.real.units])
    single = [i for i in run.kept if len(run.rows[i]["parts"]) == 1]
    if len(set(kinds)) < 2 or not single:
        return
    made = np.stack([own_colour(*run.pairs[i]) for i in single])
    own = np.array([run.rows[i]["parts"][0]["cluster"] for i in single])
    bare = np.stack(
        [own_colour(run.canvases[run.rows[i]["canvas"]], run.pairs[i][1]) for i in single]
    )
    shuffled = np.random.default_rng(0).permutation(own)
    apart = [
        kin_share(known[i : i + 1], kinds[i : i + 1], np.delete(known, i, 0), np.delete(kinds, i))
        for i in range(len(known))
    ]
    print(
        f"nearest real component by colour is of the own cluster: "
        f"{kin_share(made, own, known, kinds):.1%} of {len(single)} kept pairs; clusters "
        f"shuffled {kin_share(made, shuffled, known, kinds):.1%}, untouched canvases "
        f"{kin_share(bare, own, known, kinds):.1%}, real components among themselves "
        f"{np.mean(apart):.1%}"
    )


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
        "all pairs (unfiltered)": [image for image, _ in run.pairs][:count],
        "kept pairs": [run.pairs[i][0] for i in run.kept][:count],
        "control: bare canvases": run.canvases[:count],
    }
    copies = (run.real.images * count)[:count]
    rows = table_of(
        {name: _features(run, images) for name, images in sets.items()},
        _features(run, run.real.images),
        perlin=_features(run, perlin[:count]),
        copies=_features(run, copies),
        network=str(record["name"]),
        sha256=record.get("sha256"),
        seed=0,
    )
    for row in rows:
        told = ", ".join(f"{key} {value:.4g}" for key, value in row.figures.items())
        print(f"{row.name} ({row.images} images): {told}")
    _inception(run, {**sets, "control: Perlin": perlin[:count], "control: plain copies": copies})


def _inception(run: Run, sets: dict[str, list[Picture]]) -> None:
    """Print the score that takes its classes from the seen defects' types: never called IS."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneOut, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = np.array([kind for _, _, kind in run.real.pairs()])
    if len(set(kinds)) < 2:
        return
    known = _features(run, run.real.images)
    network = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    held = cross_val_score(network, known, kinds, cv=LeaveOneOut()).mean()
    network.fit(known, kinds)
    told = ", ".join(
        f"{name} {inception_score(network.predict_proba(_features(run, images))):.2f}"
        for name, images in sets.items()
    )
    print(
        f"is@types-of-{len(kinds)}-seen-defects (1 to {len(set(kinds))}; right in {held:.0%} when "
        f"left out): {told}"
    )


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
    for arm in _ARMS:
        rows = list(found[arm].values())
        if rows:
            told = ", ".join(
                f"{name} {np.mean(v):.3f} ± {np.std(v, ddof=len(v) > 1):.3f}"
                for name in ("auroc", "ap", "f1max", "aupro_30")
                for v in [[row["pixel"][name] for row in rows]]
            )
            print(f"{arm:9} {len(rows)} seeds, pixels: {told}")
    for one, other in _GAINS:
        seeds = sorted(set(found[one]) & set(found[other]))
        gains = [found[one][s]["pixel"]["ap"] - found[other][s]["pixel"]["ap"] for s in seeds]
        if gains:
            told = ", ".join(f"{g:+.3f}" for g in gains)
            spread = np.std(gains, ddof=len(gains) > 1)
            print(
                f"AP of {one} above {other}, by seed: {told}; "
                f"mean {np.mean(gains):+.3f} ± {spread:.3f}"
            )


def small(folder: Path) -> None:
    """Print what becomes of masks below one latent cell, in the loss and in the picture."""
    run = Run(folder)
    keys, rng = run.chain.keys.generate, np.random.default_rng(0)
    maker, visible = run.chain.maker(run.stages, run.real, None)
    cell = maker.painter.model.factor * keys.window / keys.net  # pixels of a picture, along a side
    plans, canvases, labels, weights = [], [], [], []
    for number in range(64):
        canvas = int(rng.integers(len(run.canvases)))
        size = run.canvases[canvas].shape[:2]
        side = rng.integers(1, max(2, int(cell)), 2)  # its area is below that of a cell
        at = [int(rng.integers(n // 4, 3 * n // 4)) for n in size]
        label = np.zeros(size, dtype=np.uint8)
        label[at[0] : at[0] + side[0], at[1] : at[1] + side[1]] = 1
        unit = int(rng.integers(len(run.real.units)))
        own = run.real.units[unit]
        part = Part(unit, own.cluster, 0.3, 0.0, False, at[0], at[1], "small")
        plans.append(Plan(number, own.defect, canvas, (part,)))
        canvases.append(run.canvases[canvas])
        labels.append(label)
        window = window_around(label == 1, keys)
        mask = torch.from_numpy(brought_mask((label == 1)[window.slices], keys.net))[None, None]
        weights.append(float(latent_mask(mask, maker.painter.model.factor, "area").sum()))
    made = maker(plans, canvases, labels)
    change = [
        np.abs(image.astype(int) - canvas.astype(int)).max(-1)[label == 1].max()
        for image, canvas, label in zip(made, canvases, labels, strict=True)
    ]
    print(
        f"{len(made)} masks below a latent cell of {cell:g} x {cell:g} pixels: "
        f"{np.mean(np.array(weights) > 0):.1%} weigh in the loss, "
        f"{np.mean(np.array(change) > 0):.1%} change the picture, "
        f"{np.mean(np.array(change) > 4):.1%} by more than 4 of 256 levels "
        f"(encoding and decoding alone change {visible:g})"
    )


# billions of multiply-adds at 256 pixels, counted (notes, section 9)
_STEP, _ENCODE, _DECODE, _SCORER = 91.0, 136.0, 311.0, 12.0


def cost(folder: Path) -> None:
    """Print what 1000 pairs of 73 types would take: at this run's rate, and at paper scale."""
    stages = folder / "stages"
    made = json.loads((stages / "generate" / "made.json").read_text())
    rate = made["pairs_per_second"]
    hours = _TYPES * _PAIRS / rate / 3600
    print(f"{made['base']}: {rate} pairs a second, {hours:.1f} h for {_TYPES} x {_PAIRS} pairs")
    for card in sorted(stages.glob("*/stage.json")):
        print(f"  {card.parent.name}: {json.loads(card.read_text())['seconds']} s")
    speed = _multiply_adds()
    pair = 200 * _STEP + _ENCODE + _DECODE + 2 * _SCORER
    print(
        f"paper scale, computed: a pair is {pair / 1000:.1f} TMAC (200 steps of the latent "
        f"diffusion U-Net at 256 px); this thread does {speed:.0f} GMAC a second (measured, 3 x 3 "
        f"convolutions of its widths, CPU time): {pair / speed / 60:.1f} min a pair, "
        f"{_TYPES * _PAIRS * pair / speed / 86400 / 365:.1f} years for {_TYPES} x {_PAIRS} on one "
        f"thread; {_TYPES * _PAIRS * pair / 30e3 / 3600:.0f} h at 30 TMAC a second"
    )


def _multiply_adds() -> float:
    """Return billions of multiply-adds a second of CPU time, of convolutions as that U-Net's."""
    done = seconds = 0.0
    for width, side in ((320, 32), (640, 16), (1280, 8)):
        layer = torch.nn.Conv2d(width, width, 3, padding=1)
        x = torch.rand(1, width, side, side)
        with torch.inference_mode():
            layer(x)
            start = time.process_time()
            for _ in range(3):
                layer(x)
            seconds += time.process_time() - start
        done += 3 * 9 * width * width * side * side
    return done / seconds / 1e9


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
        case ["small", folder]:
            small(Path(folder))
        case ["cost", folder]:
            cost(Path(folder))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
