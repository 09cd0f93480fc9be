"""Real defects as units: one connected component of one picture's mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.data.cache import resized_image
from adbench.data.fit import fitted_mask
from adbench.data.images import image_size, read_mask
from adbench.errors import UserError
from adbench.runs.files import read_json, write_json
from adbench.runs.pictures import write_png

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule
    from adbench.data.sample import Sample

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_ALL = 0.98  # share of a picture beyond which a mask says nothing
_UNITS = "units.json"


@dataclass(frozen=True, slots=True)
class Unit:
    """A component of a real mask.

    Attributes:
        picture: position among the pictures.
        label: of its pixels in the picture's components.
        box: top, left, height, width.
        area: pixels.
        cluster: number; -1 before clustering.
    """

    picture: int
    label: int
    defect: str
    box: tuple[int, int, int, int]
    area: int
    cluster: int = -1


@dataclass(slots=True)
class RealDefects:
    """The seen defects at the working size.

    Attributes:
        files: their paths below the data set's root.
        images: [H, W, 3] uint8 each.
        components: [H, W] uint8 each; 0 outside, else the unit's label.
        units: all components.
    """

    files: list[str]
    images: list[Picture]
    components: list[Picture]
    units: list[Unit]

    @property
    def types(self) -> list[str]:
        return sorted({unit.defect for unit in self.units})

    @property
    def clusters(self) -> int:
        return 1 + max(unit.cluster for unit in self.units)

    def mask_of(self, unit: Unit) -> Mask:
        """Return [H, W] bool of one unit."""
        return np.asarray(self.components[unit.picture] == unit.label)

    def of_type(self, defect: str) -> list[Unit]:
        return [unit for unit in self.units if unit.defect == defect]

    def of_cluster(self, cluster: int) -> list[Unit]:
        return [unit for unit in self.units if unit.cluster == cluster]

    def pairs(self) -> list[tuple[Picture, Mask, str]]:
        """Return image, mask and type of every picture."""
        types = {unit.picture: unit.defect for unit in self.units}
        return [(self.images[i], self.components[i] > 0, types[i]) for i in range(len(self.images))]

    def write(self, folder: Path) -> None:
        """Write ``pictures/00.png``, ``00_components.png`` and ``units.json``."""
        for i, (image, components) in enumerate(zip(self.images, self.components, strict=True)):
            write_png(folder / "pictures" / f"{i:03d}.png", image)
            write_png(folder / "pictures" / f"{i:03d}_components.png", components)
        write_json(
            folder / _UNITS, {"files": self.files, "units": [asdict(unit) for unit in self.units]}
        )

    @classmethod
    def read(cls, folder: Path) -> RealDefects:
        """Return what ``write`` left.

        Raises:
            UserError: a file is missing or damaged.
        """
        document = read_json(folder / _UNITS)
        try:
            files = [str(name) for name in document["files"]]
            units = [_unit(row) for row in document["units"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{folder / _UNITS} is damaged; force=cluster makes it anew") from error
        images, components = [], []
        for i in range(len(files)):
            images.append(read_png(folder / "pictures" / f"{i:03d}.png"))
            components.append(read_png(folder / "pictures" / f"{i:03d}_components.png", grey=True))
        return cls(files, images, components, units)


def _unit(row: Mapping[str, Any]) -> Unit:
    top, left, height, width = (int(value) for value in row["box"])
    numbers = {name: int(row[name]) for name in ("picture", "label", "area", "cluster")}
    return Unit(defect=str(row["defect"]), box=(top, left, height, width), **numbers)


def read_png(path: Path, *, grey: bool = False) -> Picture:
    """Return [H, W, 3] RGB, or [H, W], uint8 of a file that this program wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    found = cv2.imread(str(path), flag) if path.is_file() else None
    if found is None:
        raise UserError(f"{path} is missing or cannot be read; repeat its stage with force=STAGE")
    return np.asarray(found if grey else cv2.cvtColor(found, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_real(datamodule: DataModule, min_area: int) -> RealDefects:
    """Return the seen defects of a run at its working size.

    Raises:
        UserError: a mask is empty, or covers everything.
    """
    found = RealDefects([], [], [], [])
    for sample in datamodule.splits.defects:
        mask = _mask_at(sample, datamodule)
        image = resized_image(sample.image, datamodule.image_size, datamodule.fit, datamodule.bits)
        whole = sample.kind == "logical"
        labels, units = components_of(mask, len(found.files), sample.defect, min_area, whole=whole)
        found.files.append(sample.relative)
        found.images.append(image)
        found.components.append(labels)
        found.units += units
    return found


def _mask_at(sample: Sample, datamodule: DataModule) -> Mask:
    if not sample.masks:
        raise UserError(f"{sample.relative} may be seen but has no mask: draw one, or leave it out")
    full = read_mask(sample.masks, image_size(sample.image))
    share = float(full.mean())
    if share == 0:
        raise UserError(
            f"the mask of {sample.relative} is empty: draw the defect, or leave the picture out "
            "with dataset.defects=[...]"
        )
    if share > _ALL:
        raise UserError(
            f"the mask of {sample.relative} covers {share:.0%} of the picture: a defect has a "
            "place; draw it closer, or leave the picture out with dataset.defects=[...]"
        )
    mask = fitted_mask(full, datamodule.image_size, datamodule.fit)
    if not mask.any():  # smaller than a pixel: any share of one counts
        grown = cv2.dilate(full.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        mask = fitted_mask(grown, datamodule.image_size, datamodule.fit)
    if not mask.any():
        raise UserError(
            f"the defect of {sample.relative} is lost at {datamodule.image_size[0]} px: raise "
            "dataset.image_size"
        )
    return mask


def components_of(
    mask: Mask, picture: int, defect: str, min_area: int, *, whole: bool = False
) -> tuple[Picture, list[Unit]]:
    """Return labels [H, W] uint8 and the units of a mask: its 8-connected components.

    Components below ``min_area`` count only where all are; at most 255, the largest.

    Args:
        whole: the mask is one unit.
    """
    if whole:
        labels: NDArray[Any] = mask.astype(np.int32)
        stats: NDArray[Any] = np.array([[0] * 5, [*_box(mask), int(mask.sum())]])
    else:
        pixels = mask.astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels, connectivity=8)
    order = sorted(range(1, len(stats)), key=lambda i: (-int(stats[i][4]), i))[:255]
    kept = [i for i in order if stats[i][4] >= min_area] or order[:1]
    out = np.zeros(mask.shape, dtype=np.uint8)
    units = []
    for label, i in enumerate(kept, 1):
        out[labels == i] = label
        left, top, width, height, area = (int(value) for value in stats[i])
        units.append(Unit(picture, label, defect, (top, left, height, width), area))
    return out, units


def _box(mask: Mask) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def square_around(box: Sequence[int], size: tuple[int, int], side: int) -> tuple[int, int, int]:
    """Return top, left and side of a square window about a box, moved inside the picture.

    The side is at most the picture's smaller one.
    """
    top, left, height, width = box
    side = min(side, *size)
    y = min(max(top + height // 2 - side // 2, 0), size[0] - side)
    x = min(max(left + width // 2 - side // 2, 0), size[1] - side)
    return y, x, side
