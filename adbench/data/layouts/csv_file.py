"""A CSV file that lists images, one a row."""

from __future__ import annotations

import os
from pathlib import Path

from adbench.data.files import is_harmless_name, shown_path
from adbench.data.layouts.base import (
    GOOD,
    check_category,
    check_name,
    confined,
    is_normal_name,
    ordered,
)
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from adbench.data.tables import Row, read_table
from adbench.errors import UserError

_KNOWN = ("image", "split", "label", "mask", "category", "defect")
# what a label column says, in English and German factories; case and dots do not matter
_LABELS = {
    **dict.fromkeys(("good", "ok", "normal", "io", "pass", "passed"), NORMAL),
    **dict.fromkeys(("anomaly", "anomalous", "abnormal", "bad", "ko"), ANOMALOUS),
    **dict.fromkeys(("defect", "defective", "nok", "notok", "ng", "nio", "fail"), ANOMALOUS),
    **dict.fromkeys(("failed", "faulty"), ANOMALOUS),
    "unknown": UNKNOWN,
}
_NAMES_OF_LABELS = "use 0/1 (1 is defective), good/bad, normal/anomaly, OK/NOK, OK/NG or IO/NIO"
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class CsvLayout:
    """Columns ``image`` (needed), ``split``, ``label``, ``mask``, ``category``, ``defect``.

    Separators, encodings and lines: ``adbench.data.tables``. Paths are relative to the CSV's
    folder, or to ``images``, and may not lead out of it. Labels are 0 (or 0.0), good, ok, normal,
    io, pass for normal, 1 (or 1.0), bad, defect, anomaly, nok, ko, ng, nio, fail for defective,
    -1 or unknown for neither; true and false are refused, for they could mean either. Without
    ``label`` a row is normal, unless it has a mask or a defect; without ``split`` normals are for
    training and the rest for testing. Several masks of one image are separated by ``;``. Further
    columns become tags.

    Args:
        file: the CSV's name below the root; unused where the root is the CSV itself.
        name: the category of rows that name none; None for the CSV's folder's name.
        images: folder that paths start from, relative to the CSV's; None for the CSV's own.
    """

    def __init__(
        self, file: str = "samples.csv", name: str | None = None, images: str | None = None
    ) -> None:
        self.file, self.images = file, images
        self.name = None if name is None else check_name(name, "dataset.options.name")

    def categories(self, root: Path) -> list[str]:
        return sorted({sample.category for sample in self._samples(root)})

    def category_of_unnamed(self, root: Path) -> str:
        """Return the category of rows that name none."""
        return self.name or self._file(root).parent.name or "own"

    def read(self, root: Path, category: str) -> list[Sample]:
        samples = self._samples(root)
        check_category(category, sorted({s.category for s in samples}), root)
        return ordered(sample for sample in samples if sample.category == category)

    def _file(self, root: Path) -> Path:
        if root.is_file():
            return root
        file = confined(root, self.file, "dataset.options.file")
        if not file.exists():
            raise UserError(f"{file} does not exist; set dataset.options.file or dataset.root")
        return file

    def _samples(self, root: Path) -> list[Sample]:
        file = self._file(root)
        folder = self._folder(file)
        rows = read_table(file, ["image"], _KNOWN[1:])
        if not rows:
            raise UserError(f"{file} lists no image")
        samples = [self._sample(row, folder, self.category_of_unnamed(root)) for row in rows]
        _check_once(samples, rows)
        return samples

    def _folder(self, file: Path) -> Path:
        """Return the folder that paths start from."""
        if self.images is None:
            return file.parent
        folder = Path(os.path.abspath(file.parent / Path(self.images).expanduser()))
        if not folder.is_dir():
            raise UserError(f"{folder} (dataset.options.images) is no folder")
        return folder

    def _sample(self, row: Row, folder: Path, category: str) -> Sample:
        cells = {key: row.cells.get(key, "") for key in _KNOWN}
        if not cells["image"]:
            raise UserError(f"{row.where}: no image named")
        label = _label(cells, row.where)
        if not is_harmless_name(cells["defect"]):
            raise UserError(
                f"{row.where}: defect '{shown_path(cells['defect'])}' has several lines"
            )

        def path(text: str) -> Path:
            return confined(folder, text, row.where, "set dataset.options.images=FOLDER")

        return Sample(
            image=path(cells["image"]),
            label=label,
            category=check_name(cells["category"] or category, f"{row.where}: category"),
            defect=GOOD if label == NORMAL else cells["defect"] or _DEFECTS[label],
            split=_split(cells["split"], label, row.where),
            masks=tuple(path(m.strip()) for m in cells["mask"].split(";") if m.strip()),
            root=folder,
            tags={key: value for key, value in row.cells.items() if key not in _KNOWN},
        )


_DEFECTS = {ANOMALOUS: "bad", UNKNOWN: "unknown"}


def _check_once(samples: list[Sample], rows: list[Row]) -> None:
    seen: dict[tuple[str, Path], Row] = {}
    for sample, row in zip(samples, rows, strict=True):
        first = seen.setdefault((sample.category, sample.image), row)
        if first is not row:
            raise UserError(f"{row.where}: {row.cells['image']} is listed before, in {first.where}")


def _label(cells: dict[str, str], where: str) -> int:
    value = "".join(c for c in cells["label"].casefold() if c not in ". _")
    if not value:
        defect = cells["defect"]
        return ANOMALOUS if cells["mask"] or (defect and not is_normal_name(defect)) else NORMAL
    if value in ("true", "false", "yes", "no"):
        raise UserError(f"{where}: label '{cells['label']}' could mean either; {_NAMES_OF_LABELS}")
    found = _LABELS.get(value, _number(cells["label"]))
    if found is None:
        raise UserError(f"{where}: label '{cells['label']}' is not known; {_NAMES_OF_LABELS}")
    return found


def _number(text: str) -> int | None:
    """Return 0, 1 or -1 of a number as spreadsheets write it (``1``, ``1.0``), else None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value in (NORMAL, ANOMALOUS, UNKNOWN) else None


def _split(value: str, label: int, where: str) -> str:
    if not value:
        return "train" if label == NORMAL else "test"
    if value.casefold() not in _SPLITS:
        raise UserError(f"{where}: split '{value}'; use train, val or test")
    return _SPLITS[value.casefold()]
