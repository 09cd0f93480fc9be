"""The chain from real defects to pairs: what its stages share, and how pairs are made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.batch import pictures
from adbench.errors import UserError, nearest
from adbench.methods.gaa.masks import Plan, Planner
from adbench.methods.gaa.pairs import pair_files
from adbench.methods.gaa.paste import Paster
from adbench.methods.gaa.rules import Rule
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.units import Picture, RealDefects, read_png
from adbench.runs.files import read_json

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

VISIBLE = 4.0  # levels of 256 beyond which a pasted pixel counts as changed


class Maker(Protocol):
    """Makes pictures of plans."""

    def __call__(
        self, plans: Sequence[Plan], canvases: Sequence[Picture], labels: Sequence[Picture]
    ) -> list[Picture]: ...


class PasteMaker:
    """The maker of ``diffusion=none``."""

    def __init__(self, real: RealDefects, keys: GaaKeys) -> None:
        self._paste = Paster(real, keys.generate)

    def __call__(
        self, plans: Sequence[Plan], canvases: Sequence[Picture], labels: Sequence[Picture]
    ) -> list[Picture]:
        trios = zip(plans, canvases, labels, strict=True)
        return [self._paste(plan, canvas, own) for plan, canvas, own in trios]


def all_pictures(datamodule: DataModule, split: str = "train") -> list[Picture]:
    """Return the normal pictures of a split, [H, W, 3] uint8 each."""
    batches = datamodule.train_batches() if split == "train" else datamodule.val_batches()
    return [picture for batch in batches for picture in pictures(batch.image)]


def tensors(
    images: Sequence[Picture], device: torch.device, batch_size: int = 16
) -> Iterator[Tensor]:
    """Yield pictures in batches [B, 3, H, W] float32 in 0..1."""
    for start in range(0, len(images), batch_size):
        some = np.stack(images[start : start + batch_size])
        yield torch.from_numpy(some).permute(0, 3, 1, 2).float().to(device) / 255


def read_regions(folder: Path, count: int) -> tuple[list[Picture], dict[str, Rule]]:
    """Return labels of every canvas and the rules, as the stage ``regions`` left them.

    Raises:
        UserError: they are missing or damaged.
    """
    labels = [read_png(folder / "labels" / f"{i:05d}.png", grey=True) for i in range(count)]
    document = read_json(folder / "rules.json")
    try:
        rules = {
            str(name): Rule(**{**row, "given": tuple(row["given"])})
            for name, row in document.items()
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{folder / 'rules.json'} is damaged: repeat it, force=regions") from error
    return labels, rules


def planner_of(
    stages: Path, keys: GaaKeys, canvases: int, seed: int, *, outline: bool
) -> tuple[RealDefects, Planner]:
    """Return the real defects and the planner of a run's finished stages."""
    real = RealDefects.read(stages / "cluster")
    labels, rules = read_regions(stages / "regions", canvases)
    return real, Planner(real, rules, labels, keys.masks, seed, outline=outline)


def chosen_types(asked: str | None, known: Sequence[str]) -> list[str]:
    """Return the types to generate.

    Raises:
        UserError: no such type.
    """
    if asked is None:
        return list(known)
    if asked not in known:
        told = ", ".join(known)
        raise UserError(f"type={asked}: no such defect{nearest(asked, known)} (there: {told})")
    return [asked]


def row_of(plan: Plan, category: str, canvas: str, labels: Picture, how: str) -> dict[str, Any]:
    """Return the manifest's line of a pair."""
    image, mask = pair_files(category, plan.defect, plan.number)
    return {
        "file": image,
        "mask": mask,
        "category": category,
        "source": canvas,
        "area": round(float((labels > 0).mean()), 6),
        "base": how,
        **plan.as_row(),
    }


def mean_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, float]:
    """Return the means of numbers over lines."""
    return {n: round(float(np.mean([row[n] for row in rows])), 4) for n in names} if rows else {}


def extractor_of(backbone: FeatureExtractor | None) -> FeatureExtractor:
    """Return the backbone.

    Raises:
        UserError: there is none.
    """
    if backbone is None:
        raise UserError("model=gaa scores pairs by features: set backbone=bundled")
    return backbone
