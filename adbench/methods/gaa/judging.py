"""What pairs are worth: the scorer is fitted to normals, and judges pairs beside their canvases."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from adbench.backbones.extractor import FeatureExtractor
from adbench.methods.gaa.ars import Judged, judged
from adbench.methods.gaa.chain import all_pictures, tensors
from adbench.methods.gaa.scorer import Scorer
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.units import Picture


class Judge:
    """Judges pairs; a canvas is scored once.

    Args:
        scorer: fitted and calibrated.
        canvases: normal pictures by position.
        visible: change that counts as one.
    """

    def __init__(
        self, scorer: Scorer, canvases: list[Picture], visible: float, device: torch.device
    ) -> None:
        self.scorer, self.canvases, self.visible, self.device = scorer, canvases, visible, device
        self._before: dict[int, np.ndarray[Any, np.dtype[np.float16]]] = {}

    def __call__(self, pairs: list[tuple[Picture, Any]], canvases: list[int]) -> list[Judged]:
        """Return the judgement of pairs on the canvases at these positions."""
        new = sorted({c for c in canvases if c not in self._before})
        for at in range(0, len(new), 16):
            some = new[at : at + 16]
            for number, found in zip(
                some, self._maps([self.canvases[c] for c in some]), strict=True
            ):
                self._before[number] = found.astype(np.float16)
        maps = self._maps([image for image, _ in pairs])
        level, spread = float(self.scorer.level), float(self.scorer.spread)
        return [
            judged(
                image,
                self.canvases[canvas],
                mask,
                scores,
                self._before[canvas].astype(np.float32),
                level=level,
                spread=spread,
                visible=self.visible,
            )
            for (image, mask), canvas, scores in zip(pairs, canvases, maps, strict=True)
        ]

    def _maps(self, images: list[Picture]) -> list[Any]:
        return [
            m for batch in tensors(images, self.device) for m in self.scorer(batch).cpu().numpy()
        ]


def fitted_scorer(
    backbone: FeatureExtractor, keys: GaaKeys, data: Any, seed: int, device: torch.device
) -> Scorer:
    """Return a scorer trained on the canvases, calibrated on held-out normals where there are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = Scorer(backbone, keys.filter).to(device)
    with torch.enable_grad():
        scorer.fit(list(tensors(all_pictures(data), device)), seed)
    held = all_pictures(data, "val") or all_pictures(data)
    scorer.calibrate(list(tensors(held, device)))
    return scorer
