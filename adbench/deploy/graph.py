"""A detector with its pre- and post-processing as one traceable graph, any batch and any size."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.deploy.reading import Reading
from adbench.methods.base import Detector

Input = Literal["uint8", "float"]


class Graph(nn.Module):
    """Picture in, image score and map in the picture's own frame out.

    Works on a copy; the detector it is made of is not touched. All branches on the picture's size
    are arithmetic on it, so that one file takes pictures of every size.

    Args:
        detector: called at the working size alone.
        reading: of the run; deep pictures are brought to 8 bits before they come here.
        kind: ``uint8`` takes [B, H, W, 3] RGB, ``float`` takes [B, 3, H, W] in 0..1.
    """

    def __init__(self, detector: Detector, reading: Reading, kind: Input) -> None:
        super().__init__()
        self.detector = copy.deepcopy(detector).cpu().float().eval()
        self.detector.requires_grad_(False)
        self.reading, self.kind = reading, kind

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return (score [B], map [B, 1, H, W])."""
        if self.kind == "uint8":
            image = image.permute(0, 3, 1, 2).to(torch.float32) / 255.0
        height, width = image.shape[-2], image.shape[-1]
        rows, columns = self._axes(height, width)
        small = shrink_both(rows, columns)
        down = into_working(rows, height, self.reading.size[0], small)
        across = into_working(columns, width, self.reading.size[1], small)
        found = self.detector(down @ image @ across.mT)
        anomaly_map = found.anomaly_map
        if self.reading.fit == "squash":
            size = (height, width)
            framed = F.interpolate(anomaly_map, size, mode="bilinear", align_corners=False)
            return found.score, framed
        up = out_of_working(rows, height, self.reading.size[0])
        along = out_of_working(columns, width, self.reading.size[1])
        framed = up @ anomaly_map @ along.mT
        seen = (up.sum(1)[:, None] * along.sum(1)[None]) > 0.5
        lowest = anomaly_map.amin((1, 2, 3), keepdim=True)
        return found.score, torch.where(seen, framed, lowest)

    def _axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """Return what of each axis is used and where it comes to lie; data.fit.placement."""
        tall, wide = self.reading.size
        h, w = _number(height), _number(width)
        whole_h, whole_w = _number(tall), _number(wide)
        nothing = torch.zeros_like(h)
        if self.reading.fit == "pad":
            scale = torch.minimum(whole_h / h, whole_w / w)
            inner_h, inner_w = _side(h * scale), _side(w * scale)
            return (
                (nothing, h, torch.floor((whole_h - inner_h) / 2), inner_h),
                (nothing, w, torch.floor((whole_w - inner_w) / 2), inner_w),
            )
        if self.reading.fit == "crop":
            scale = torch.minimum(h / whole_h, w / whole_w)
            inner_h, inner_w = _side(whole_h * scale), _side(whole_w * scale)
            return (
                (torch.floor((h - inner_h) / 2), inner_h, nothing, whole_h),
                (torch.floor((w - inner_w) / 2), inner_w, nothing, whole_w),
            )
        return (nothing, h, nothing, whole_h), (nothing, w, nothing, whole_w)


# source start, source length, target start, target length: whole numbers as 0-d tensors
Axis = tuple[Tensor, Tensor, Tensor, Tensor]


def _number(side: int) -> Tensor:
    return torch.ones((), dtype=torch.float32) * side


def _side(value: Tensor) -> Tensor:
    """Return a side rounded as Python rounds: halves to the even number; at least 1."""
    return torch.round(value).clamp_min(1)


def shrink_both(rows: Axis, columns: Axis) -> Tensor:
    """Return whether both sides shrink (0-d bool): then areas are averaged, else interpolated."""
    return (rows[1] >= rows[3]) & (columns[1] >= columns[3])


def into_working(axis: Axis, length: int, target: int, shrinks: Tensor) -> Tensor:
    """Return [target, length] float32: one axis of data.fit.fitted, border repeated by ``pad``."""
    start, used, first, inner = axis
    place = torch.arange(length, dtype=torch.float32)[None]
    row = torch.arange(target, dtype=torch.float32)[:, None]
    inside = torch.minimum((row - first).clamp_min(0), inner - 1)
    ratio = used / inner
    low, high = start + inside * ratio, start + (inside + 1) * ratio
    overlap = torch.minimum(high, place + 1) - torch.maximum(low, place)
    area = overlap.clamp_min(0) / ratio
    centre = ((inside + 0.5) * ratio - 0.5).clamp_min(0)
    centre = start + torch.minimum(centre, used - 1)
    linear = (1 - (place - centre).abs()).clamp_min(0)
    return torch.where(shrinks, area, linear)


def out_of_working(axis: Axis, length: int, target: int) -> Tensor:
    """Return [length, target] float32: one axis of data.fit.unfitted; rows of 0 were not seen."""
    start, used, first, inner = axis
    place = torch.arange(length, dtype=torch.float32)[:, None] - start
    column = torch.arange(target, dtype=torch.float32)[None]
    centre = ((place + 0.5) * (inner / used) - 0.5).clamp_min(0)
    centre = first + torch.minimum(centre, inner - 1)
    linear = (1 - (column - centre).abs()).clamp_min(0)
    seen = (place >= 0) & (place < used)
    return torch.where(seen, linear, torch.zeros_like(linear))
