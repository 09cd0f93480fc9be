"""Pictures from outside, brought to a detector exactly as its training's were."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adbench.config.schema import Fit
from adbench.config.typed import Side, converted
from adbench.data.files import check_regular, shown_path
from adbench.data.fit import fitted, placement
from adbench.data.images import PNG_SIGNATURE, image_size, read_image
from adbench.errors import UserError

VIEW = 1024  # pixels of the longer side of what overlays are drawn on
_STARTS = (PNG_SIGNATURE, b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_Bits = Literal[8, 9, 10, 11, 12, 13, 14, 15, 16]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it is scored.

    Attributes:
        working: [h, w, 3] uint8 RGB at the working size.
        size: (height, width) of the picture itself.
        view: [H, W, 3] uint8 of it, at most 1024 px long; None where nothing is drawn.
    """

    working: NDArray[np.uint8]
    size: tuple[int, int]
    view: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run brought pictures to its detector.

    Attributes:
        size: (height, width) worked at.
        fit: squash, pad or crop.
        bits: in use of deep files; None for all 16.
    """

    size: tuple[int, int]
    fit: Fit = "squash"
    bits: int | None = None

    @classmethod
    def of(cls, section: Any, where: str) -> Reading:
        """Return the section ``pictures`` of detector.yaml or of an export's card.

        Raises:
            UserError: it is missing or damaged.
        """
        if not isinstance(section, Mapping) or "size" not in section:
            raise UserError(f"{where} does not say how pictures are brought to size; train anew")
        found = converted(section["size"], tuple[Side, Side], f"{where}: pictures.size")
        fit = converted(section.get("fit", "squash"), Fit, f"{where}: pictures.fit")
        bits = section.get("bits")
        if bits is not None and bits not in get_args(_Bits):
            raise UserError(f"{where}: pictures.bits={str(bits)[:20]} is no depth")
        return cls((int(found[0]), int(found[1])), cast(Fit, fit), bits)

    def record(self) -> dict[str, Any]:
        """Return it as ``of`` takes it."""
        return {"size": list(self.size), "fit": self.fit, "bits": self.bits}

    def picture(self, path: Path, max_pixels: int, *, view: bool = False) -> Picture:
        """Return a picture file, decoded after its header was looked at.

        Raises:
            UserError: it is no picture, damaged, or larger than ``max_pixels``.
        """
        check_header(path, max_pixels)
        return self.of_pixels(read_image(path, self.bits), view=view)

    def of_pixels(self, pixels: NDArray[np.uint8], *, view: bool = False) -> Picture:
        """Return a picture [H, W, 3] uint8 RGB that is decoded already."""
        shown = shrunk(pixels) if view else None
        height, width = pixels.shape[:2]
        return Picture(fitted(pixels, self.size, self.fit), (height, width), shown)

    def in_frame(self, working: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return a map [h, w] at the working size in a picture's frame ``size``; see fit.unfitted.

        The same bilinear rule without torch.
        """
        source, target = placement(size, working.shape, self.fit)
        inside = np.ascontiguousarray(target.of(working))
        if source.size != inside.shape:
            inside = cv2.resize(inside, source.size[::-1], interpolation=cv2.INTER_LINEAR)
        if source.size == size:
            return np.asarray(inside, dtype=np.float32)
        found = np.full(size, working.min(), dtype=np.float32)
        source.of(found)[...] = inside
        return found


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the picture with its longer side at most 1024 px."""
    height, width = pixels.shape[:2]
    scale = VIEW / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def check_header(path: Path, max_pixels: int) -> tuple[int, int]:
    """Return (height, width) from the header of a PNG, JPEG, BMP, TIFF or WebP file.

    Any other content is refused, whatever its name: Pillow knows formats that start programs.

    Raises:
        UserError: none of these, or more pixels than ``max_pixels``: a small file may decode to
            more than the memory holds.
    """
    check_regular(path)
    with open(path, "rb") as file:
        start = file.read(16)
    if not (start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")):
        raise UserError(
            f"cannot read image {shown_path(path)}: its content is no PNG, JPEG, BMP, TIFF or WebP"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            height, width = image_size(path)
        except UserError as error:
            if "decompression bomb" not in str(error):
                raise
            height, width = 1 << 15, 1 << 15  # Pillow's own limit does not tell how many
    if height * width > max_pixels:
        raise UserError(f"image {shown_path(path)} has more than max_pixels={max_pixels} pixels")
    return height, width
