"""The chosen maps drawn beside the rejected ones (after Fig. S7)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from adbench.methods.realnet.blocks import candidate_maps
from adbench.methods.realnet.choice import ChannelChooser, Choice

_SIDE = 112
_SHOWN = 4  # best and worst channels per layer


@torch.no_grad()
def selection_sheet(chooser: ChannelChooser, choices: list[Choice]) -> np.ndarray | None:
    """Return a picture [H, W, 3] uint8 RGB, one row per layer; None where nothing was ranked.

    A row shows the composite, its mask, then |difference|^2 of the best and of the worst
    channels with their mean loss; a green frame marks the kept ones.
    """
    ranked = [(i, choice) for i, choice in enumerate(choices) if choice.losses]
    drawn = next(chooser.drawn(), None)
    if not ranked or drawn is None:
        return None
    _, image, made = drawn
    largest = int(made.mask.flatten(1).sum(1).argmax())
    pair = torch.stack((image[largest], made.image[largest]))
    maps = candidate_maps(chooser.detector.backbone(pair), chooser.open)
    first = [_picture(made.image[largest]), _gray(made.mask[largest, 0].float())]
    rows = []
    for number, choice in ranked:
        difference = (maps[number][1] - maps[number][0]).square()
        rows.append(np.hstack(first + _channels(difference, choice, chooser.keys.batches)))
    return cv2.cvtColor(np.vstack(rows), cv2.COLOR_BGR2RGB)


def _channels(difference: Tensor, choice: Choice, batches: int) -> list[np.ndarray]:
    order = np.argsort(choice.losses, kind="stable").tolist()
    kept = set(choice.index)
    shown = order[:_SHOWN] + order[-_SHOWN:]
    return [
        _framed(_gray(difference[c]), f"{c}: {choice.losses[c] / batches:.3f}", c in kept)
        for c in shown
    ]


def _picture(image: Tensor) -> np.ndarray:
    pixels = (image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
    small: np.ndarray = cv2.resize(
        np.ascontiguousarray(pixels[..., ::-1]), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA
    )
    return small


def _gray(values: Tensor) -> np.ndarray:
    array = values.float().cpu().numpy()
    span = float(array.max() - array.min()) or 1.0
    level = ((array - array.min()) / span * 255).astype(np.uint8)
    large = cv2.resize(level, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    return np.repeat(large[..., None], 3, axis=2)


def _framed(tile: np.ndarray, text: str, kept: bool) -> np.ndarray:
    colour = (0, 200, 0) if kept else (0, 0, 220)
    framed: np.ndarray = np.ascontiguousarray(tile)
    cv2.rectangle(framed, (0, 0), (_SIDE - 1, _SIDE - 1), colour, 2)
    cv2.putText(framed, text, (5, _SIDE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, colour, 1)
    return framed
