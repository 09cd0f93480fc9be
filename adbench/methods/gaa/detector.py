"""What inference needs: the localisation network, and the network that names the type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from adbench.methods.base import Detector, Prediction
from adbench.methods.gaa.classifier import type_network
from adbench.methods.gaa.unet import LocalisationNet
from adbench.methods.memory import built


class GaaDetector(Detector):
    """A U-Net trained on pairs; its softmax is the anomaly map.

    Args:
        width: channels of the U-Net's first level.
        size: (height, width) that it works at.
        window: side of the mean filter whose maximum is the image's score, zeros counted.
        types: names of the defects, in the order of the classifier's logits.
        classifier: ``network`` of the classifier (``none``: there is none).
    """

    def __init__(
        self,
        width: int,
        size: Sequence[int],
        window: int = 21,
        types: Sequence[str] = (),
        classifier: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.window = width, window
        self.size = (int(size[0]), int(size[1]))
        self.network = built(
            lambda: LocalisationNet(width), "the localisation network", "model.use.width"
        )
        self.type_names: list[str] = []
        self.classifier: nn.Module | None = None
        self.classifier_keys = dict(classifier or {"network": "none"})
        self.set_types(types)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """Plain keyword arguments that rebuild the architecture, as trained so far."""
        return {
            "width": self.width,
            "size": list(self.size),
            "window": self.window,
            "types": list(self.type_names),
            "classifier": self.classifier_keys,
        }

    def set_types(self, types: Sequence[str]) -> None:
        """Give the classifier its types; with fewer than two there is none."""
        self.type_names = list(types)
        kind = str(self.classifier_keys.get("network", "none"))
        named = kind != "none" and len(types) > 1
        self.classifier = type_network(kind, len(types)) if named else None

    def forward(self, image: Tensor) -> Prediction:
        working = image
        if image.shape[-2:] != self.size:
            working = F.interpolate(
                image, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        found = self.network(working).float().softmax(1)[:, 1:]
        mean = F.avg_pool2d(found, self.window, 1, self.window // 2)
        score = mean.flatten(1).amax(1)
        full = found
        if image.shape[-2:] != self.size:
            full = F.interpolate(found, image.shape[-2:], mode="bilinear", align_corners=False)
        return Prediction(score, full)

    def type_scores(self, image: Tensor) -> Tensor | None:
        """Return logits [B, types] of the defect's type; None where there is one type only."""
        if self.classifier is None:
            return None
        if image.shape[-2:] != self.size:
            image = F.interpolate(
                image, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        found: Tensor = self.classifier(image).float()
        return found
