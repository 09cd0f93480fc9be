"""Reconstructions drawn: input, reconstruction, difference, fusion, map, chosen step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from adbench.methods.glad.detector import GladDetector, Reconstruction

_SIDE = 160


@torch.no_grad()
def drawn_sheet(detector: GladDetector, image: Tensor, titles: Sequence[str]) -> np.ndarray:
    """Return a row for each image [B, 3, H, W] at the working size, uint8 RGB.

    Maps share one scale: black is the smallest value of all, white the largest.
    """
    made, fusion, maps, steps = [], [], [], []
    for some in image.split(detector.keys.micro_batch):
        found = detector.reconstructed(some)
        made.append(found.image)
        fusion.append(_fusion(found))
        maps.append(detector.anomaly_map(some, found.image))
        steps += chosen_steps(detector, found)
    all_made, all_fusion, all_maps = torch.cat(made), torch.cat(fusion), torch.cat(maps)
    low, high = float(all_maps.amin()), float(all_maps.amax())
    rows = [
        np.hstack(
            [
                _captioned(_picture(image[i]), titles[i]),
                _captioned(_picture(all_made[i]), steps[i]),
                _grey((image[i] - all_made[i]).abs().mean(0), 0.0, 0.5),
                _grey(all_fusion[i, 0], 0.0, 1.0),
                _grey(all_maps[i, 0], low, high),
            ]
        )
        for i in range(len(image))
    ]
    return np.vstack(rows)


def chosen_steps(detector: GladDetector, part: Reconstruction) -> list[str]:
    """Return in words the step of each image."""
    if part.decision is None:
        return [detector.keys.reconstruct] * len(part.image)
    times = detector.ddim.times
    return [
        f"t={times[int(index)]}" if crossed else "as normal"
        for index, crossed in zip(part.decision.index, part.decision.crossed, strict=True)
    ]


def _fusion(part: Reconstruction) -> Tensor:
    if part.decision is None:
        return torch.zeros(len(part.image), 1, 8, 8)
    return part.decision.mask.cpu()


def _picture(image: Tensor) -> np.ndarray:
    pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().clip(0, 255).astype(np.uint8)
    small: np.ndarray = cv2.resize(
        np.ascontiguousarray(pixels), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA
    )
    return small


def _grey(values: Tensor, low: float, high: float) -> np.ndarray:
    level = ((values.float().cpu().numpy() - low) / max(high - low, 1e-9)).clip(0, 1) * 255
    large = cv2.resize(level.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return np.repeat(large[..., None], 3, axis=2)


def _captioned(tile: np.ndarray, text: str) -> np.ndarray:
    drawn = np.ascontiguousarray(tile)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        place = (5, _SIDE - 6)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width)
    return drawn
