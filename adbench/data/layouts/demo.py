"""Layout of the demo data set: made at first use, then read as MVTec's layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from adbench.config.typed import Seed, Share, Within
from adbench.data.demo import CATEGORIES, box, ensure_demo
from adbench.data.layouts.base import check_category
from adbench.data.layouts.mvtec import MVTecLayout
from adbench.data.sample import Sample
from adbench.errors import UserError

_LARGEST = 2 << 30  # pixels of all pictures: minutes and gigabytes, not days and a full disk

# Only the box can be wrong as a whole; in the other categories kinds would tell nothing.
_KINDS: dict[str, dict[str, str]] = {
    "box": dict.fromkeys(box.LOGICAL, "logical") | dict.fromkeys(box.STRUCTURAL, "structural"),
    "metal": {},
    "weave": {},
}


class DemoLayout:
    """Procedural pictures below ``root``, in a folder named after the options.

    Args:
        size, seed, train, good, defective, difficulty, fillings: see ``ensure_demo``.
    """

    def __init__(
        self,
        size: Annotated[int, Within(64, 2048)] = 256,
        seed: Seed = 0,
        train: Annotated[int, Within(1, 10_000)] = 60,
        good: Annotated[int, Within(0, 10_000)] = 20,
        defective: Annotated[int, Within(0, 10_000)] = 5,
        difficulty: Share = 0.3,
        fillings: Literal[1, 2] = 1,
    ) -> None:
        pictures = (train + good + 8 * defective) * len(CATEGORIES)
        if pictures * size**2 > _LARGEST:
            raise UserError(
                f"dataset.options: about {pictures} pictures of {size}x{size} would be made, "
                f"{_LARGEST // size**2} are the most; lower train, good, defective or size"
            )
        self.size, self.seed, self.train = size, seed, train
        self.good, self.defective, self.difficulty = good, defective, difficulty
        self.fillings = fillings

    def categories(self, root: Path) -> list[str]:
        return sorted(CATEGORIES)

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, sorted(CATEGORIES), root)
        folder = ensure_demo(
            root,
            size=self.size,
            seed=self.seed,
            train=self.train,
            good=self.good,
            defective=self.defective,
            difficulty=self.difficulty,
            fillings=self.fillings,
        )
        found = MVTecLayout().read(folder, category)
        return [replace(sample, kind=_KINDS[category].get(sample.defect)) for sample in found]
