"""Inference: how many deviations a pixel lies from the median picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.maps import gaussian_blur, working_picture
from adbench.methods.base import Detector, Prediction


class ReferenceDetector(Detector):
    """Median picture and deviation of every pixel and colour.

    The map is the largest over colours of |x - median| / deviation, smoothed; the image score its
    largest value.

    Args:
        image_size: working (height, width).
        sigma: of the Gaussian on the map, pixels at the working size; 0: none.
    """

    median: Tensor
    deviation: Tensor

    def __init__(self, image_size: Sequence[int], sigma: float = 4.0) -> None:
        super().__init__()
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.sigma = sigma
        self.config = {"image_size": list(self.image_size), "sigma": sigma}
        self.register_buffer("median", torch.zeros(3, *self.image_size))
        self.register_buffer("deviation", torch.ones(3, *self.image_size))

    def forward(self, image: Tensor) -> Prediction:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        working = working_picture(image, self.image_size).float()
        off = (working - self.median).abs() / self.deviation
        anomaly_map = gaussian_blur(off.amax(1, keepdim=True), self.sigma)
        score = anomaly_map.amax((1, 2, 3))
        if size != self.image_size:
            anomaly_map = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
        return Prediction(score, anomaly_map)
