"""Writes a run's heat maps while its test set is scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.data.batch import pictures
from adbench.data.datamodule import DataModule
from adbench.data.fit import fitted_mask
from adbench.data.images import image_size, read_mask
from adbench.data.sample import Sample
from adbench.methods.base import Detector
from adbench.runs.pictures import write_png
from adbench.training.evaluate import Scored
from adbench.training.heatmaps import chosen_images, panel
from adbench.training.threshold import StoredThreshold


class HeatMaps:
    """Keeps the chosen images' maps, then draws them all on one colour scale."""

    def __init__(
        self, detector: Detector, datamodule: DataModule, device: torch.device, count: int | str
    ) -> None:
        self.detector, self.datamodule, self.device = detector, datamodule, device
        samples = datamodule.test_samples
        chosen = chosen_images([sample.defect for sample in samples], count)
        self._wanted = {samples[position].image: position for position in chosen}
        self._kept: list[tuple[Scored, dict[str, NDArray[Any]]]] = []

    def __call__(self, scored: Scored) -> None:
        if scored.sample.image not in self._wanted:
            return
        maps: dict[str, NDArray[Any]] = {"anomaly": scored.anomaly_map}
        with torch.no_grad():
            partial = self.detector.named_maps(self._image(scored).to(self.device))
        maps |= {name: value[0, 0].float().cpu().numpy() for name, value in partial.items()}
        self._kept.append((scored, maps))

    def _image(self, scored: Scored) -> torch.Tensor:
        """Return the image [1, 3, H, W] as it was scored."""
        return self.datamodule.test_images(torch.tensor([self._wanted[scored.sample.image]]))

    def _pixels(self, scored: Scored) -> NDArray[np.uint8]:
        return pictures(self._image(scored))[0]

    def write(self, folder: Path, stored: StoredThreshold) -> int:
        """Draw the kept images into ``folder``; return how many."""
        if not self._kept:
            return 0
        names = self._kept[0][1].keys()
        scale = {name: _scale([maps[name] for _, maps in self._kept]) for name in names}
        files = picture_names([scored.sample for scored, _ in self._kept])
        for (scored, maps), file in zip(self._kept, files, strict=True):
            picture = panel(
                self._pixels(scored),
                maps,
                scale,
                self._mask(scored),
                _title(scored, stored.threshold.value),
                stored.pixel_threshold,
            )
            write_png(folder / file, picture)
        return len(self._kept)

    def write_sheet(self, path: Path) -> None:
        """Draw how the kept images came by their maps, where the detector can tell."""
        if not self._kept:
            return
        samples = [scored.sample for scored, _ in self._kept]
        image = torch.cat([self._image(scored) for scored, _ in self._kept]).to(self.device)
        titles = [f"{sample.defect}/{sample.image.stem}" for sample in samples]
        with torch.no_grad():
            sheet = self.detector.sheet(image, titles)
        if sheet is not None:
            write_png(path, sheet)

    def _mask(self, scored: Scored) -> NDArray[np.bool_] | None:
        if not scored.sample.masks:
            return None
        full = read_mask(scored.sample.masks, image_size(scored.sample.image))
        return fitted_mask(full, self.datamodule.image_size, self.datamodule.fit)


def _scale(maps: list[NDArray[Any]]) -> tuple[float, float]:
    values = np.concatenate([values.ravel()[::7] for values in maps])
    return float(np.quantile(values, 0.02)), float(np.quantile(values, 0.998))


def picture_names(samples: Sequence[Sample]) -> list[str]:
    """Return a file name for each sample that no other has: category, folders and stem.

    Pictures of one stem in two folders, or with two extensions, get two names.
    """
    found: dict[str, int] = {}
    names = []
    for sample in samples:
        parts = Path(sample.relative).with_suffix("").parts
        own = [part for part in parts if part not in ("..", "/", "test", sample.category)]
        plain = "_".join([sample.category, *own])[-150:]
        name = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in plain)
        found[name] = found.get(name, 0) + 1
        names.append(f"{name}.png" if found[name] == 1 else f"{name}-{found[name]}.png")
    return names


def _title(scored: Scored, threshold: float | None) -> str:
    told = f"{scored.sample.category}/{scored.sample.defect}/{scored.sample.image.stem}"
    told += f"  score {scored.score:.4g}"
    if threshold is not None:
        told += "  ANOMALOUS" if scored.score > threshold else "  normal"
        told += f" (threshold {threshold:.4g})"
    return told
