"""VisA and PCB-Bank: their own folders with a split file, or converted to layout M."""

from __future__ import annotations

from pathlib import Path

from adbench.data.layouts.base import (
    GOOD,
    check_category,
    check_name,
    confined,
    is_normal_name,
    ordered,
)
from adbench.data.layouts.mvtec import MVTecLayout
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.data.tables import Row, read_table
from adbench.errors import UserError

_COLUMNS = ("object", "split", "label", "image", "mask")


class VisALayout:
    """As published (``CAT/Data/Images`` and a split file) or converted to layout M, by itself.

    Args:
        split: name of the split file: ``split_csv/NAME.csv`` or ``NAME.csv`` below the root.
        inner: folders below the root that may hold a converted copy.
    """

    def __init__(
        self, split: str = "1cls", inner: tuple[str, ...] = ("1cls", "visa_pytorch")
    ) -> None:
        self.split = check_name(split, "dataset.options.split")
        self._converted = MVTecLayout(inner)

    def categories(self, root: Path) -> list[str]:
        file = self._split_file(root)
        if file is not None:
            return sorted({_category(row) for row in read_table(file, _COLUMNS)})
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
        rows = [row for row in read_table(file, _COLUMNS) if row.cells["object"] == category]
        return ordered(_sample(row, root) for row in rows)

    def _split_file(self, root: Path) -> Path | None:
        for file in (root / "split_csv" / f"{self.split}.csv", root / f"{self.split}.csv"):
            if file.is_file():
                return file
        return None


def _category(row: Row) -> str:
    return check_name(row.cells["object"], f"{row.where}: object")


def _sample(row: Row, root: Path) -> Sample:
    cells, where = row.cells, row.where
    normal = is_normal_name(cells["label"])
    if not normal and cells["label"].lower() not in ("anomaly", "bad", "ko"):
        raise UserError(f"{where}: label '{cells['label']}'; normal or anomaly")
    if cells["split"] not in ("train", "test"):
        raise UserError(f"{where}: split '{cells['split']}'; train or test")
    if not cells["image"]:
        raise UserError(f"{where}: no image named")
    return Sample(
        image=confined(root, cells["image"], where),
        label=NORMAL if normal else ANOMALOUS,
        category=cells["object"],
        defect=GOOD if normal else "bad",
        split=cells["split"],
        masks=(confined(root, cells["mask"], where),) if cells["mask"] else (),
        root=root,
    )
