"""What a report shows of single pictures: input, map and truth, small and on one scale."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adbench.data.batch import pictures
from adbench.data.datamodule import DataModule
from adbench.data.fit import fitted_mask
from adbench.data.images import image_size, read_mask
from adbench.data.sample import ANOMALOUS, NORMAL, Sample
from adbench.runs.files import folder_beside, write_json
from adbench.runs.pictures import write_png
from adbench.training.evaluate import Scored
from adbench.training.heatmaps import chosen_images
from adbench.training.threshold import StoredThreshold

SIDE = 192  # pixels of the longer side
_MOST = 48  # pictures kept
_HELD = 4000  # maps held in memory until the scale is known: 2 bytes a pixel


class Gallery:
    """Keeps small maps of a test set, then writes those of the worst errors and some others."""

    def __init__(self, datamodule: DataModule) -> None:
        self.datamodule = datamodule
        height, width = datamodule.image_size
        ratio = min(SIDE / max(height, width), 1.0)
        self.size = (max(round(height * ratio), 1), max(round(width * ratio), 1))
        self._kept: list[tuple[Sample, float, NDArray[np.float16] | None]] = []

    def __call__(self, scored: Scored) -> None:
        full = len(self._kept) >= _HELD
        small = None if full else self._small(scored.anomaly_map).astype(np.float16)
        self._kept.append((scored.sample, scored.score, small))

    def _small(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a map at the gallery's size; maxima of defects of one pixel are kept by area."""
        height, width = self.size
        return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA))

    def write(self, folder: Path, stored: StoredThreshold) -> int:
        """Write NUMBER.jpg, NUMBER.png and gallery.json into ``folder``; return how many pictures.

        The PNG's red is the map from ``low`` (0) to ``high`` (255), one scale for all pictures;
        green is 255 in the true defect.
        """
        chosen = self._chosen(stored.threshold.value)
        if not chosen:
            return 0
        maps = [self._kept[place][2] for place in chosen]
        values = np.concatenate([m.astype(np.float32).ravel()[::5] for m in maps if m is not None])
        low, high = (float(np.quantile(values, q)) for q in (0.02, 0.998))
        if stored.pixel_threshold is not None:  # the scale is anchored there: it must hold it
            low, high = min(low, stored.pixel_threshold), max(high, stored.pixel_threshold)
        entries = []
        with folder_beside(folder) as temporary:
            for number, place in enumerate(chosen):
                self._write_one(temporary / f"{number:03d}", place, low, high)
                sample, score, _ = self._kept[place]
                entries.append({"path": sample.relative, "label": sample.label, "score": score})
            document = {
                "schema": 1,
                "low": low,
                "high": high,
                "threshold": stored.pixel_threshold,
                "pictures": entries,
            }
            write_json(temporary / "gallery.json", document)
        return len(chosen)

    def _chosen(self, threshold: float | None) -> list[int]:
        """Return places of what is decided wrongly, worst first, then of some of every kind."""
        known = [place for place, kept in enumerate(self._kept) if kept[2] is not None]
        wrong: list[tuple[float, int]] = []
        for place in known if threshold is not None else ():
            sample, score, _ = self._kept[place]
            off = score - float(threshold or 0)
            if (sample.label == NORMAL and off > 0) or (sample.label == ANOMALOUS and off <= 0):
                wrong.append((-abs(off), place))
        found = [place for _, place in sorted(wrong)][: _MOST // 2]
        defects = [self._kept[place][0].defect for place in known]
        spread = [known[each] for each in sorted(chosen_images(defects, _MOST))]
        return list(dict.fromkeys([*found, *spread]))[:_MOST]

    def _write_one(self, path: Path, place: int, low: float, high: float) -> None:
        sample, _, small = self._kept[place]
        assert small is not None
        height, width = self.size
        picture = pictures(self.datamodule.test_images(torch.tensor([place])))[0]
        shown = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        ok, encoded = cv2.imencode(
            ".jpg", cv2.cvtColor(shown, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85]
        )
        if not ok:
            raise OSError(f"cannot encode {path}")
        path.with_suffix(".jpg").write_bytes(encoded.tobytes())
        level = np.clip((small.astype(np.float32) - low) / max(high - low, 1e-12), 0, 1)
        planes = np.zeros((height, width, 3), dtype=np.uint8)
        planes[..., 0] = (level * 255).round()
        planes[..., 1] = self._mask(sample) * 255
        write_png(path.with_suffix(".png"), planes)

    def _mask(self, sample: Sample) -> NDArray[np.uint8]:
        height, width = self.size
        if not sample.masks:
            return np.zeros((height, width), dtype=np.uint8)
        full = read_mask(sample.masks, image_size(sample.image))
        own = fitted_mask(full, self.datamodule.image_size, self.datamodule.fit).astype(np.float32)
        small = cv2.resize(own, (width, height), interpolation=cv2.INTER_AREA)
        return (small > 0).astype(np.uint8)
