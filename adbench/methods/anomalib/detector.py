"""Inference: anomalib's torch model between our normalisation and our prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import working_picture
from adbench.methods.anomalib.theirs import CLASSES, built
from adbench.methods.base import Detector, Prediction

_NONE: dict[str, Any] = {"name": None, "layers": [], "mean": [0.0] * 3, "std": [1.0] * 3}


class AnomalibDetector(Detector):
    """A torch model of anomalib; scores and maps are what its forward returns.

    Args:
        method: which model.
        backbone: ``name``, ``layers``, ``mean`` and ``std`` of the network it reads; None where it
            reads none, and pictures go in as they are.
        image_size: working (height, width).
        options: of anomalib's own class.
        model: the built one; None builds it with untrained values.
    """

    def __init__(
        self,
        method: str,
        backbone: Mapping[str, Any] | None,
        image_size: Sequence[int],
        options: Mapping[str, Any],
        model: Any = None,
    ) -> None:
        super().__init__()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        given = _NONE if backbone is None else backbone
        own = {key: given[key] for key in ("name", "layers", "mean", "std")}
        if model is None:
            size = self.image_size
            # DRAEM looks for its textures when it is built, which inference has no use for.
            there = {**options, "dtd_dir": Path(__file__).parent} if method == "draem" else options
            model = built(method, own["name"], own["layers"], there, None, size).model
        self.model, self._alone = model, CLASSES[method].alone
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(own[name]).view(1, 3, 1, 1), persistent=False)
        self.config = {
            "method": method,
            "backbone": None if backbone is None else own,
            "image_size": list(self.image_size),
            "options": dict(options),
        }

    def forward(self, image: Tensor) -> Prediction:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        working = (working_picture(image, self.image_size) - self.mean) / self.std
        parts = working.split(1 if self._alone else len(working))
        scored = [self._scored(part) for part in parts]
        anomaly_map = torch.cat([each for each, _ in scored])
        score = torch.cat([each for _, each in scored])
        if size != anomaly_map.shape[-2:]:
            anomaly_map = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
        return Prediction(score, anomaly_map)

    def _scored(self, working: Tensor) -> tuple[Tensor, Tensor]:
        """Return their maps [B, 1, h, w] and scores [B]."""
        found = self.model(working)
        own = found.anomaly_map.float()
        maps = own.reshape(len(working), 1, *own.shape[-2:])
        score = maps.amax((1, 2, 3)) if found.pred_score is None else found.pred_score.float()
        return maps, score.reshape(len(working))
