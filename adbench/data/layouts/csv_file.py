"""A CSV file that lists images, one a row."""

from __future__ import annotations

import csv
from pathlib import Path

from adbench.data.layouts.base import GOOD, check_category, is_normal_name, ordered
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError, nearest

_KNOWN = ("image", "split", "label", "mask", "category", "defect")
_ABNORMAL_NAMES = frozenset({"1", "anomaly", "anomalous", "abnormal", "bad", "ko", "defect"})
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class CsvLayout:
    """Columns ``image`` (needed), ``split``, ``label``, ``mask``, ``category``, ``defect``.

    Paths are relative to the CSV. Without ``label`` a row is normal, unless it has a mask or a
    defect; without ``split`` normals are for training and the rest for testing. Several masks of
    one image are separated by ``;``. Further columns become tags.

    Args:
        file: the CSV's name below the root; unused where the root is the CSV itself.
        name: the category of rows that name none; None for the CSV's folder's name.
    """

    def __init__(self, file: str = "samples.csv", name: str | None = None) -> None:
        self.file, self.name = file, name

    def categories(self, root: Path) -> list[str]:
        return sorted({sample.category for sample in self._samples(root)})

    def read(self, root: Path, category: str) -> list[Sample]:
        samples = self._samples(root)
        check_category(category, sorted({s.category for s in samples}), root)
        return ordered(sample for sample in samples if sample.category == category)

    def _samples(self, root: Path) -> list[Sample]:
        file = root if root.is_file() else root / self.file
        if not file.is_file():
            raise UserError(f"{file} does not exist; set dataset.options.file or dataset.root")
        with open(file, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            names = list(reader.fieldnames or ())
            if "image" not in names:
                raise UserError(f"{file} has no column 'image'{nearest('image', names)}")
            rows = list(reader)
        if not rows:
            raise UserError(f"{file} lists no image")
        return [self._sample(row, file, f"{file}, line {line}") for line, row in enumerate(rows, 2)]

    def _sample(self, row: dict[str, str], file: Path, where: str) -> Sample:
        cells = {key: (row.get(key) or "").strip() for key in _KNOWN}
        if not cells["image"]:
            raise UserError(f"{where}: no image named")
        label = _label(cells, where)
        return Sample(
            image=file.parent / cells["image"],
            label=label,
            category=cells["category"] or self.name or file.parent.name,
            defect=GOOD if label == NORMAL else cells["defect"] or "bad",
            split=_split(cells["split"], label, where),
            masks=tuple(file.parent / m.strip() for m in cells["mask"].split(";") if m.strip()),
            root=file.parent,
            tags={key: value for key, value in row.items() if key and key not in _KNOWN},
        )


def _label(cells: dict[str, str], where: str) -> int:
    value = cells["label"].lower()
    if not value:
        defect = cells["defect"]
        return ANOMALOUS if cells["mask"] or (defect and not is_normal_name(defect)) else NORMAL
    if value == "0" or is_normal_name(value):
        return NORMAL
    if value in _ABNORMAL_NAMES:
        return ANOMALOUS
    raise UserError(f"{where}: label '{cells['label']}'; use 0/1, normal/anomaly or good/bad")


def _split(value: str, label: int, where: str) -> str:
    if not value:
        return "train" if label == NORMAL else "test"
    if value.lower() not in _SPLITS:
        raise UserError(f"{where}: split '{value}'; use train, val or test")
    return _SPLITS[value.lower()]
