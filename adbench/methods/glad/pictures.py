"""Reconstructions drawn: input, reconstruction, difference, fusion, map, chosen step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from adbench.errors import UserError
from adbench.methods.glad.calibration import HeldOut
from adbench.methods.glad.detector import GladDetector, Reconstruction

_SIDE = 160


@torch.no_grad()
def write_sheet(
    detector: GladDetector, images: Sequence[HeldOut], count: int, folder: Path
) -> None:
    """Write ``reconstructions.png``: held-out images with synthetic defects, a row each.

    Raises:
        UserError: the file cannot be written.
    """
    damaged = torch.cat([batch.damaged for batch in images])[:count]
    found = [detector.reconstructed(some) for some in damaged.split(detector.keys.micro_batch)]
    made = torch.cat([part.image for part in found])
    maps = [
        detector.anomaly_map(a, b)
        for a, b in zip(
            damaged.split(detector.keys.micro_batch),
            made.split(detector.keys.micro_batch),
            strict=True,
        )
    ]
    all_maps = torch.cat(maps)
    fusion = torch.cat([_fusion(part) for part in found])
    steps = [text for part in found for text in chosen_steps(detector, part)]
    high = float(all_maps.amax())
    rows = [
        np.hstack(
            [
                _picture(damaged[i]),
                _captioned(_picture(made[i]), steps[i]),
                _grey((damaged[i] - made[i]).abs().mean(0), 0.5),
                _grey(fusion[i, 0], 1.0),
                _grey(all_maps[i, 0], high),
            ]
        )
        for i in range(len(damaged))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reconstructions.png"
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise UserError(f"cannot write {path}")


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
        np.ascontiguousarray(pixels[..., ::-1]), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA
    )
    return small


def _grey(values: Tensor, high: float) -> np.ndarray:
    level = (values.float().cpu().numpy() / max(high, 1e-9)).clip(0, 1) * 255
    large = cv2.resize(level.astype(np.uint8), (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
    return np.repeat(large[..., None], 3, axis=2)


def _captioned(tile: np.ndarray, text: str) -> np.ndarray:
    drawn = np.ascontiguousarray(tile)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        place = (5, _SIDE - 6)
        cv2.putText(drawn, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, width)
    return drawn
