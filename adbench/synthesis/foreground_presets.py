"""RealNet's foreground rules by data set and category (papers/002, the authors' configuration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError, nearest

SIDE = 256  # pixels: the rules' squares are meant for images of this size
_CHANNELS = {"red": 0, "green": 1, "blue": 2}


@dataclass(frozen=True, slots=True)
class ForegroundRule:
    """One way to tell an object from its background.

    Attributes:
        channel: ``gray``, ``red``, ``green`` or ``blue``.
        threshold: ``otsu``, ``triangle``, or ``all`` for foreground everywhere.
        dark: the object is the dark side.
        close, open: sides in pixels of the squares of a closing and a following opening; 0: none.
    """

    channel: str = "gray"
    threshold: str = "otsu"
    dark: bool = False
    close: int = 0
    open: int = 0

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return [H, W] bool of an image [H, W, 3] uint8 RGB."""
        if self.threshold == "all":
            return np.ones(image.shape[:2], dtype=bool)
        if self.channel == "gray":
            values = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        else:
            values = np.ascontiguousarray(image[..., _CHANNELS[self.channel]])
        kind = cv2.THRESH_OTSU if self.threshold == "otsu" else cv2.THRESH_TRIANGLE
        side = cv2.THRESH_BINARY_INV if self.dark else cv2.THRESH_BINARY
        mask = np.asarray(cv2.threshold(values, 0, 1, kind + side)[1], dtype=np.uint8)
        return opened(closed(mask, self.close), self.open) > 0


def closed(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the closing by a square; even squares do not shift the result."""
    if side < 2:
        return mask
    square, anchor = np.ones((side, side), np.uint8), (side - 1) // 2
    grown = cv2.dilate(mask, square, anchor=(anchor, anchor))
    back = side - 1 - anchor
    return np.asarray(cv2.erode(grown, square, anchor=(back, back)), dtype=np.uint8)


def opened(mask: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return the opening by a square; even squares do not shift the result."""
    if side < 2:
        return mask
    square, anchor = np.ones((side, side), np.uint8), (side - 1) // 2
    shrunk = cv2.erode(mask, square, anchor=(anchor, anchor))
    back = side - 1 - anchor
    return np.asarray(cv2.dilate(shrunk, square, anchor=(back, back)), dtype=np.uint8)


_ALL = ForegroundRule(threshold="all")
_BRIGHT = ForegroundRule(close=6, open=6)
_DARK = ForegroundRule(dark=True, close=6, open=6)
_TRIANGLE = ForegroundRule(threshold="triangle", close=6, open=6)
_PCB = ForegroundRule("blue", "triangle", close=8, open=3)
_VISA = ForegroundRule(close=3, open=3)
_GREEN = ForegroundRule("green", dark=True, close=6)
_BLUE = ForegroundRule("blue", close=6)
_BTAD = ForegroundRule(close=15, open=6)

RULES: Mapping[str, Mapping[str, ForegroundRule]] = {
    "mvtec": {
        **dict.fromkeys(("carpet", "leather", "tile", "wood", "cable", "transistor"), _ALL),
        "pill": _BRIGHT,
        **dict.fromkeys(("hazelnut", "metal_nut", "toothbrush"), _TRIANGLE),
        **dict.fromkeys(("bottle", "capsule", "grid", "screw", "zipper"), _DARK),
    },
    "visa": {
        "capsules": _ALL,
        **dict.fromkeys(("pcb1", "pcb2", "pcb3", "pcb4"), _PCB),
        **dict.fromkeys(
            ("candle", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pipe_fryum"),
            _VISA,
        ),
    },
    "mpdd": {
        **dict.fromkeys(("bracket_black", "bracket_brown", "connector"), _GREEN),
        **dict.fromkeys(("bracket_white", "tubes"), _BLUE),
        "metal_plate": ForegroundRule(dark=True, close=6),
    },
    "btad": {"02": _ALL, **dict.fromkeys(("01", "03"), _BTAD)},
}


def foreground_rule(preset: str, category: str) -> ForegroundRule:
    """Return the rule of a data set's category.

    Raises:
        UserError: no such preset, or the preset has no such category.
    """
    if preset not in RULES:
        raise UserError(
            f"synthesis.foreground.preset={preset}: choose {', '.join(RULES)}"
            f"{nearest(preset, RULES)}"
        )
    rules = RULES[preset]
    if category not in rules:
        raise UserError(
            f"synthesis.foreground.preset={preset} has no rule for category '{category}'"
            f"{nearest(category, rules)}; set synthesis.foreground.method=otsu"
        )
    return rules[category]


def preset_foreground(image: NDArray[np.uint8], preset: str, category: str) -> NDArray[np.bool_]:
    """Return the foreground of an image [H, W, 3] uint8 RGB of any size as [H, W] bool.

    The rule is applied at 256 x 256 pixels, as its squares ask for.
    """
    rule = foreground_rule(preset, category)
    height, width = image.shape[:2]
    if rule.threshold == "all" or (height, width) == (SIDE, SIDE):
        return rule(image)
    small = np.asarray(cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    mask = rule(small).astype(np.uint8)
    return np.asarray(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)) > 0
