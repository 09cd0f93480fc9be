"""VisA and PCB-Bank: their own folders with a split file, or converted to layout M."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from adbench.data.layouts.base import GOOD, check_category, is_normal_name, ordered
from adbench.data.layouts.mvtec import MVTecLayout
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

_COLUMNS = ("object", "split", "label", "image", "mask")


class VisALayout:
    """As published (``CAT/Data/Images`` and a split file) or converted to layout M, by itself.

    Args:
        split: name of the split file: ``split_csv/NAME.csv`` or ``NAME.csv`` below the root.
        inner: folders below the root that may hold a converted copy.
    """

    def __init__(
        self, split: str = "1cls", inner: Sequence[str] = ("1cls", "visa_pytorch")
    ) -> None:
        self.split = split
        self._converted = MVTecLayout(inner)

    def categories(self, root: Path) -> list[str]:
        file = self._split_file(root)
        if file is not None:
            return sorted({row["object"] for row in _rows(file)})
        try:
            return self._converted.categories(root)
        except UserError as error:
            raise UserError(
                f"{root} has neither split_csv/{self.split}.csv (the set as published) nor "
                "CATEGORY/train folders (a converted copy)"
            ) from error

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        file = self._split_file(root)
        if file is None:
            return self._converted.read(root, category)
        rows = [row for row in _rows(file) if row["object"] == category]
        return ordered(_sample(row, root, file) for row in rows)

    def _split_file(self, root: Path) -> Path | None:
        for file in (root / "split_csv" / f"{self.split}.csv", root / f"{self.split}.csv"):
            if file.is_file():
                return file
        return None


def _rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{file} lacks the columns {', '.join(missing)}")
        return list(reader)


def _sample(row: dict[str, str], root: Path, file: Path) -> Sample:
    normal = is_normal_name(row["label"])
    if not normal and row["label"].lower() not in ("anomaly", "bad", "ko"):
        raise UserError(f"{file}: label '{row['label']}' of {row['image']}; normal or anomaly")
    if row["split"] not in ("train", "test"):
        raise UserError(f"{file}: split '{row['split']}' of {row['image']}; train or test")
    return Sample(
        image=root / row["image"],
        label=NORMAL if normal else ANOMALOUS,
        category=row["object"],
        defect=GOOD if normal else "bad",
        split=row["split"],
        masks=(root / row["mask"],) if row["mask"] else (),
        root=root,
    )
