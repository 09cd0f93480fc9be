"""MVTec LOCO: a validation split, and one mask file per defect of an image (its channels)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adbench.data.images import image_size, images_in, read_values
from adbench.data.layouts.base import GOOD, check_category, is_normal_name, ordered, subfolders
from adbench.data.layouts.mvtec import MVTecLayout, read_category
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.errors import UserError

CONFIG = "defects_config.json"
_KINDS = {"logical_anomalies": "logical", "structural_anomalies": "structural"}
_KEYS = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")


class MVTecLocoLayout:
    """``CAT/{train,validation}/good``, ``CAT/test/KIND``, ``CAT/ground_truth/KIND/NNN/MMM.png``."""

    def categories(self, root: Path) -> list[str]:
        return MVTecLayout().categories(root)

    def read(self, root: Path, category: str) -> list[Sample]:
        check_category(category, self.categories(root), root)
        folder = root / category
        normals = [s for s in read_category(folder, category, root) if s.split != "test"]
        return ordered([*normals, *_tests(folder, category, root)])


@dataclass(frozen=True, slots=True)
class DefectRule:
    """How much of a defect must be found for it to count as wholly found.

    Attributes:
        defect: name of the defect type, e.g. ``1_additional_pushpin``.
        saturation: pixels, or a share of the defect's area in (0, 1] where ``relative``.
        relative: how ``saturation`` is meant.
    """

    defect: str
    saturation: float
    relative: bool


@dataclass(frozen=True, slots=True)
class Channel:
    """One defect of one image: mask bool [H, W] at the original size, and its rule."""

    mask: NDArray[np.bool_]
    rule: DefectRule


def read_defect_rules(config: Path) -> dict[int, DefectRule]:
    """Return the rules of ``defects_config.json`` by pixel value.

    Raises:
        UserError: no such file (sPRO is then off), or an entry that cannot be understood.
    """
    if not config.is_file():
        raise UserError(f"{config} is missing: without it there is no sPRO")
    try:
        entries = json.loads(config.read_text())
        return {int(entry["pixel_value"]): _rule(entry) for entry in entries}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{config}: a list of entries with {', '.join(_KEYS)} is expected ({error})"
        ) from error


def _rule(entry: Mapping[str, Any]) -> DefectRule:
    rule = DefectRule(
        defect=str(entry["defect_name"]),
        saturation=float(entry["saturation_threshold"]),
        relative=bool(entry["relative_saturation"]),
    )
    if not 0 < rule.saturation < math.inf or (rule.relative and rule.saturation > 1):
        raise ValueError(f"saturation_threshold {rule.saturation} of {rule.defect}")
    return rule


def loco_channels(sample: Sample, config: Mapping[int, DefectRule] | Path) -> list[Channel]:
    """Return the defects of ``sample``, one per mask file; they may overlap.

    Args:
        config: what ``read_defect_rules`` returns, or the file it reads.

    Raises:
        UserError: a mask of another size than the image, of several values, or of a value that
            the configuration does not know.
    """
    rules = read_defect_rules(config) if isinstance(config, Path) else config
    size = image_size(sample.image) if sample.masks else (0, 0)
    return [_channel(path, size, rules) for path in sample.masks]


def _channel(path: Path, size: tuple[int, int], rules: Mapping[int, DefectRule]) -> Channel:
    values = read_values(path)
    if values.shape != size:
        raise UserError(
            f"mask {path} is {values.shape[1]}x{values.shape[0]} pixels but its image is "
            f"{size[1]}x{size[0]} (width x height)"
        )
    found = np.unique(values[values != 0]).tolist()
    if len(found) != 1:
        raise UserError(f"mask {path} holds values {found}; exactly one is expected besides 0")
    if found[0] not in rules:
        raise UserError(f"mask {path}: {CONFIG} has no defect of pixel value {found[0]}")
    return Channel(values != 0, rules[found[0]])


def _tests(folder: Path, category: str, root: Path) -> list[Sample]:
    samples = []
    for kind in subfolders(folder / "test"):
        normal = is_normal_name(kind)
        for image in images_in(folder / "test" / kind):
            channels = images_in(folder / "ground_truth" / kind / image.stem)
            samples.append(
                Sample(
                    image=image,
                    label=NORMAL if normal else ANOMALOUS,
                    category=category,
                    defect=GOOD if normal else kind,
                    split="test",
                    masks=tuple(channels),
                    kind=_KINDS.get(kind),
                    root=root,
                )
            )
    return samples
