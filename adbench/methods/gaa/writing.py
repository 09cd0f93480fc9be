"""Further pairs from a finished run, as a set of their own in MVTec's layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.data.defects import RECORD
from adbench.methods.gaa.chain import all_pictures, chosen_types, planner_of, row_of
from adbench.methods.gaa.judging import Judge
from adbench.methods.gaa.masks import Planner
from adbench.methods.gaa.pairs import read_rows, write_pair
from adbench.methods.gaa.scorer import Scorer
from adbench.methods.gaa.stages import Stages
from adbench.runs.alone import written_alone
from adbench.runs.files import read_json, read_record, write_beside, write_json
from adbench.runs.pictures import write_png
from adbench.synthesis.writer import (
    CONTACT,
    MANIFEST,
    REQUEST,
    check_claim,
    contact_sheet,
)

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

_OWN = 10**6  # added to the seed: none of the run's own pairs is made again


def write_pairs(
    chain: Stages,
    run: Path,
    datamodule: DataModule,
    target: Path,
    *,
    n: int,
    asked: str | None,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Write ``n`` pairs into ``target``, type after type in turn, with manifest and contact sheet.

    An interrupted call goes on where it stopped, and a larger n extends a smaller one. Nothing is
    filtered: the manifest says what each pair is worth (ARS, Eq. 7, and its companions).
    ``defects.json`` goes with the set, so that nobody who uses it scores what was seen.

    Raises:
        UserError: no such type; or the folder holds something else.
    """
    stages = run / "stages"
    count = len(datamodule.train_samples)
    real, planner = planner_of(stages, chain.keys, count, _OWN + seed, outline=chain.outline)
    types = chosen_types(asked, real.types)
    card = read_record(stages / "generate" / "stage.json")
    request = {"run": str(card.get("hash")), "types": types, "seed": seed, "base": chain.base}
    wanted = {"split": "train", **request}
    check_claim(target, wanted)
    with written_alone(target, "out"):
        write_json(target / REQUEST, wanted)
        shutil.copyfile(run / RECORD, target / RECORD)
        rows = read_rows(target) if (target / MANIFEST).is_file() else []
        judge = _judge(chain, stages, datamodule)
        maker, _ = chain.maker(stages, real, None)  # type: ignore[arg-type]
        batch = chain.keys.generate.batch_size
        while len(rows) < n:
            numbers = range(len(rows), min(len(rows) + batch, n))
            made = _made(
                planner, maker, judge, datamodule, types, list(numbers), target, chain.base
            )
            _append(target, made)
            rows += made
            say(f"synthesize: {len(rows)} of {n} pairs")
        write_png(target / CONTACT, contact_sheet(target, rows[:n]))


def _judge(chain: Stages, stages: Path, datamodule: DataModule) -> Judge:
    scorer = Scorer(chain.backbone, chain.keys.filter).to(chain.device)
    scorer.load(stages / "filter" / "scorer.safetensors")
    visible = float(read_json(stages / "generate" / "made.json")["visible"])
    return Judge(scorer, all_pictures(datamodule), visible, chain.device)


def _made(
    planner: Planner,
    maker: Any,
    judge: Judge,
    datamodule: DataModule,
    types: list[str],
    numbers: list[int],
    target: Path,
    base: str,
) -> list[dict[str, Any]]:
    planned = [planner.plan(types[i % len(types)], i // len(types)) for i in numbers]
    canvases = [judge.canvases[plan.canvas] for plan, _ in planned]
    labels = [own for _, own in planned]
    images = maker([plan for plan, _ in planned], canvases, labels)
    pairs = [(image, own > 0) for image, own in zip(images, labels, strict=True)]
    found = judge(pairs, [plan.canvas for plan, _ in planned])
    rows = []
    for (plan, own), (image, mask), worth in zip(planned, pairs, found, strict=True):
        sample = datamodule.train_samples[plan.canvas]
        row = row_of(plan, sample.category, sample.relative, own, base)
        write_pair(target, row, image, mask)
        rows.append({**row, "ars": worth.ars, "out_px": worth.out_px, "fill": worth.fill})
    return rows


def _append(folder: Path, rows: list[dict[str, Any]]) -> None:
    path = folder / MANIFEST
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    with write_beside(path) as temporary:
        temporary.write_text(before + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")
