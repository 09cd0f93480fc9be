"""The stages of GAA: cluster, regions, concept, masks, generate, filter; each drawn."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.methods.gaa import sheets
from adbench.methods.gaa.ars import Judged, kept
from adbench.methods.gaa.chain import (
    Maker,
    all_pictures,
    mean_rows,
    planner_of,
    row_of,
)
from adbench.methods.gaa.clustering import clustered
from adbench.methods.gaa.features import block_weights, described, fused
from adbench.methods.gaa.judging import Judge, fitted_scorer
from adbench.methods.gaa.pairs import (
    is_written,
    linked,
    read_pair,
    read_rows,
    write_pair,
    write_rows,
)
from adbench.methods.gaa.regions import Regions, most_common
from adbench.methods.gaa.rules import inferred
from adbench.methods.gaa.segmenting import check_segmenter
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.units import Picture, RealDefects, read_png, read_real
from adbench.runs.files import read_json, write_json
from adbench.runs.pictures import write_png
from adbench.runs.stages import Stage, StageContext

MakerOf = Callable[[Path, RealDefects, StageContext], tuple[Maker, float]]
_JUDGED = ("ars", "ars_z", "out_px", "out_s", "fill", "moved", "centred")


class Stages:
    """Builds the stages of one run.

    Args:
        keys: conf/model/gaa.yaml.
        backbone: features for clusters, regions and scorer.
        seed: of every draw.
        device: of networks.
        base: name of what paints the defects, for the manifest.
        outline: whether masks get an outline of their own (Eq. 5).
        maker: builds what paints, and the change that counts as visible with it.
        concept: the stage that trains what paints; None where nothing is trained.
    """

    def __init__(
        self,
        keys: GaaKeys,
        backbone: FeatureExtractor,
        seed: int,
        device: torch.device,
        *,
        base: str,
        outline: bool,
        maker: MakerOf,
        concept: Stage | None = None,
    ) -> None:
        self.keys, self.backbone, self.seed, self.device = keys, backbone, seed, device
        self.base, self.outline, self.maker, self.concept = base, outline, maker, concept
        if keys.regions.kind in ("sam", "seggpt"):
            check_segmenter(keys.regions.kind, keys.regions.weights)

    def all(self) -> list[Stage]:
        """Return the stages in order."""
        keys, record = self.keys, dict(self.backbone.record)
        own = {"seed": self.seed, "backbone": record, "layers": self.backbone.layers}
        made = ("concept",) if self.concept is not None else ()
        draws = {"draw": keys.draw}
        stages = [
            Stage("cluster", self.cluster, {**asdict(keys.cluster), **own, **draws}),
            Stage(
                "regions",
                self.regions,
                {**asdict(keys.regions), **own, "rules": keys.masks.rules, **draws},
                ("cluster",),
                self._region_files(),
            ),
            *([self.concept] if self.concept is not None else []),
            Stage(
                "masks",
                self.masks,
                {**asdict(keys.masks), **own, "n": keys.generate.per_type, "out": self.outline},
                ("cluster", "regions"),
            ),
            Stage(
                "generate",
                self.generate,
                {**asdict(keys.generate), **own, "base": self.base},
                ("cluster", *made, "masks"),
            ),
            Stage("filter", self.filter, {**asdict(keys.filter), **own, **draws}, ("generate",)),
        ]
        return stages

    def _region_files(self) -> tuple[Path, ...]:
        if not self.keys.regions.root:
            return ()
        root = Path(self.keys.regions.root).expanduser()
        return (root,) if root.is_file() else tuple(sorted(root.rglob("*.png")))

    def cluster(self, context: StageContext) -> None:
        """Divide the components of each type; draw every cluster."""
        real = read_real(context.datamodule, self.keys.cluster.min_area)
        blocks = described(real, self.backbone, self.device)
        weights = block_weights(blocks, self.keys.cluster, self.seed)
        numbers = np.zeros(len(real.units), dtype=np.int64)
        first = 0
        for defect in real.types:
            rows = np.array([i for i, u in enumerate(real.units) if u.defect == defect])
            own = {name: values[rows] for name, values in blocks.items()}
            labels = clustered(fused(own, weights), self.keys.cluster, self.seed)
            numbers[rows] = first + labels
            first += int(labels.max()) + 1
            context.say(f"cluster: {defect}: {len(rows)} components, {labels.max() + 1} clusters")
        real.units = [replace(u, cluster=int(n)) for u, n in zip(real.units, numbers, strict=True)]
        real.write(context.folder)
        write_json(context.folder / "weights.json", weights)
        sheets.draw_clusters(real, context.folder, self.keys.draw)

    def regions(self, context: StageContext) -> None:
        """Find the regions of canvases and real defects; settle the rule of every type."""
        data = context.datamodule
        real = RealDefects.read(context.stages / "cluster")
        finder = Regions(self.keys.regions, self.backbone, self.device)
        finder.prepare(data, self.seed)
        canvases = all_pictures(data)
        labels = [finder.of(c, s) for c, s in zip(canvases, data.train_samples, strict=True)]
        for number, own in enumerate(labels):
            write_png(context.folder / "labels" / f"{number:05d}.png", own)
        samples = {sample.relative: sample for sample in data.splits.defects}
        common = most_common(labels)
        of_real = [
            self._of_real(finder, image, samples.get(name), common)
            for image, name in zip(real.images, real.files, strict=True)
        ]
        rules = {}
        for defect in real.types:
            units = real.of_type(defect)
            rule = self.keys.masks.rule(defect)
            masks = [real.mask_of(unit) for unit in units]
            found = inferred(masks, [of_real[unit.picture] for unit in units], rule)
            rules[defect] = asdict(found)
            context.say(
                f"regions: {defect}: {found.place}, region {found.region}, "
                f"turned by up to {found.turn:g} degrees"
                + (f" ({', '.join(found.given)} given)" if found.given else "")
            )
        for name in self.keys.masks.rules:
            if name not in rules:
                known = ", ".join(rules)
                raise UserError(f"model.masks.rules.{name}: no such type was seen (there: {known})")
        write_json(context.folder / "rules.json", rules)
        shown = np.linspace(0, len(labels) - 1, min(len(labels), 8)).round().astype(int)
        sheets.draw_regions(
            [*[canvases[i] for i in shown], *real.images[:8]],
            [*[labels[i] for i in shown], *of_real[:8]],
            context.folder / "contact.png",
        )

    def _of_real(
        self, finder: Regions, image: Picture, sample: Sample | None, common: Picture
    ) -> Picture:
        """Return the regions of a defective picture; those most canvases share where it has none.

        A defect changes what is seen: regions by files exist for normal pictures only.
        """
        if sample is None or self.keys.regions.kind == "files":
            return common
        return finder.of(image, sample)

    def masks(self, context: StageContext) -> None:
        """Plan every pair: canvas, components, places."""
        data = context.datamodule
        count = len(data.train_samples)
        real, planner = planner_of(
            context.stages, self.keys, count, self.seed, outline=self.outline
        )
        rows, shown = [], []
        for defect in real.types:
            for number in range(self.keys.generate.per_type):
                plan, labels = planner.plan(defect, number)
                sample = data.train_samples[plan.canvas]
                row = row_of(plan, sample.category, sample.relative, labels, self.base)
                write_png(context.folder / row["mask"], labels)
                rows.append(row)
                shown.append((plan.canvas, labels > 0))
        write_rows(context.folder, rows)
        write_json(context.folder / "places.json", dict(sorted(planner.counts.items())))
        told = ", ".join(f"{name} {n}" for name, n in planner.counts.most_common())
        context.say(f"masks: {len(rows)} planned ({told})")
        some = _spread(shown, self.keys.draw)
        canvases = _canvases(data, [canvas for canvas, _ in some])
        sheets.draw_masks(canvases, [mask for _, mask in some], context.folder / "contact.png")

    def generate(self, context: StageContext) -> None:
        """Paint every plan; an interrupted stage goes on with what it has not painted."""
        from adbench.methods.gaa.masks import Plan

        real = RealDefects.read(context.stages / "cluster")
        plans = context.stages / "masks"
        rows = read_rows(plans)
        maker, visible = self.maker(context.stages, real, context)
        start, made, size = time.perf_counter(), 0, self.keys.generate.batch_size
        for at in range(0, len(rows), size):
            some = [row for row in rows[at : at + size] if not is_written(context.scratch, row)]
            if not some:
                continue
            labels = [read_png(plans / row["mask"], grey=True) for row in some]
            canvases = _canvases(context.datamodule, [int(row["canvas"]) for row in some])
            images = maker([Plan.of_row(row) for row in some], canvases, labels)
            for row, image, own in zip(some, images, labels, strict=True):
                write_pair(context.scratch, row, image, own > 0)
            made += len(some)
            if at // size % 8 == 0:
                context.say(f"generate: {at + len(some)} of {len(rows)} pairs")
        seconds = time.perf_counter() - start
        for name in {row["category"] for row in rows}:
            shutil.copytree(context.scratch / name, context.folder / name)
        write_rows(context.folder, rows)
        rate = round(made / seconds, 2) if made else None
        write_json(
            context.folder / "made.json",
            {"base": self.base, "pairs": len(rows), "visible": visible, "pairs_per_second": rate},
        )
        context.say(f"generate: {len(rows)} pairs by {self.base}, {rate} a second")
        self._draw(context.folder, context, rows, context.folder / "contact.png")

    def _draw(self, folder: Path, context: StageContext, rows: list[Any], path: Path) -> None:
        if not rows:
            return
        some = _spread(rows, self.keys.draw)
        pairs = [read_pair(folder, row) for row in some]
        canvases = _canvases(context.datamodule, [int(row["canvas"]) for row in some])
        sheets.draw_pairs([p[0] for p in pairs], [p[1] for p in pairs], canvases, path)

    def filter(self, context: StageContext) -> None:
        """Score every pair, keep the best of each cluster, write them as a set of their own."""
        data, made = context.datamodule, context.stages / "generate"
        rows, visible = read_rows(made), float(read_json(made / "made.json")["visible"])
        scorer = fitted_scorer(self.backbone, self.keys, data, self.seed, self.device)
        scorer.save(context.folder / "scorer.safetensors")
        judge = Judge(scorer, all_pictures(data), visible, self.device)
        found: list[Judged] = []
        for at in range(0, len(rows), 16):
            some = rows[at : at + 16]
            pairs = [read_pair(made, row) for row in some]
            found += judge(pairs, [int(row["canvas"]) for row in some])
        clusters = [int(row["parts"][0]["cluster"]) for row in rows]
        chosen = kept(list(zip(clusters, found, strict=True)), self.keys.filter)
        told = [
            {**row, **{n: getattr(j, n) for n in _JUDGED}, "kept": good}
            for row, j, good in zip(rows, found, chosen, strict=True)
        ]
        write_rows(context.folder, told, "scored.jsonl")
        best = [row for row in told if row["kept"]]
        for row in best:
            for name in (row["file"], row["mask"]):
                linked(made / name, context.folder / name)
        write_rows(context.folder, best)
        dropped = [row for row in told if not row["kept"]]
        report = {
            "pairs": len(told),
            "kept": len(best),
            "kept_mean": mean_rows(best, _JUDGED),
            "dropped_mean": mean_rows(dropped, _JUDGED),
        }
        write_json(context.folder / "report.json", report)
        context.say(f"filter: {len(best)} of {len(told)} pairs kept")
        self._draw(context.folder, context, best, context.folder / "contact.png")
        self._draw(made, context, dropped, context.folder / "contact-dropped.png")


def _canvases(data: Any, positions: list[int]) -> list[Picture]:
    from adbench.data.batch import pictures

    return pictures(data.train_images(torch.tensor(positions)))


def _spread(items: list[Any], most: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)
    return [items[i] for i in places]
