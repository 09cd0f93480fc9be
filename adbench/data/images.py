"""Pixels and sizes of image files, by one stated rule for every format."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from adbench.errors import UserError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})

_ORIENTATION = int(ExifTags.Base.Orientation)
_WIDTH, _LENGTH = int(ExifTags.Base.ImageWidth), int(ExifTags.Base.ImageLength)
_TURNED = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNREADABLE = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


def is_image(path: Path) -> bool:
    """Whether ``path`` is named like an image; dot files (``._001.png``) never are."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the images directly in ``folder``, by name; an absent folder has none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    return [folder / name for name in sorted(names) if is_image(Path(name))]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return the image as uint8 [H, W, 3] RGB, turned as its EXIF orientation says.

    Gray becomes three equal channels, 16 bits become 8 by their high byte, alpha is dropped,
    palettes are resolved to their colours; of several pages the first counts.

    Raises:
        UserError: no such file, not an image, truncated, or values beyond 16 bits.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")):
            gray = _high_bytes(np.asarray(image), path)
            return np.repeat(gray[..., None], 3, axis=2)
        return np.array(_colour(image), dtype=np.uint8)


def read_mask(paths: Sequence[Path], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of mask files as bool [H, W]; any non-zero value is defect.

    Args:
        paths: mask files; none gives an empty mask.
        size: (height, width) of the image the masks belong to.

    Raises:
        UserError: a file cannot be read or has another size than its image.
    """
    union = np.zeros(size, dtype=np.bool_)
    for path in paths:
        mask = read_nonzero(path)
        if mask.shape != tuple(size):
            raise UserError(
                f"mask {path} is {_size_text(mask.shape)} pixels but its image is "
                f"{_size_text(size)} (width x height); the two must be equal"
            )
        union |= mask
    return union


def read_nonzero(path: Path) -> NDArray[np.bool_]:
    """Return bool [H, W], True where any colour channel of the file is not zero."""
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")) or image.mode in ("L", "1"):
            return np.asarray(np.asarray(image) != 0)
        return np.asarray(np.asarray(_colour(image)).any(axis=2))


def read_values(path: Path) -> NDArray[np.int64]:
    """Return the values [H, W] of a single-channel file as they stand, e.g. class ids.

    Raises:
        UserError: the file cannot be read or has several channels that differ.
    """
    with _opened(path) as image:
        values = np.asarray(image).astype(np.int64)
    if values.ndim == 3:
        values = values[..., :3]
        if (values != values[..., :1]).any():
            raise UserError(f"{path} is coloured; a mask of one channel is expected here")
        values = values[..., 0]
    return values


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone.

    Raises:
        UserError: no such file, or not an image.
    """
    with _unreadable_named(path), Image.open(path) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # Pillow's versions differ in whether .size is turned already; the tags never are
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_LENGTH]
        if image.format == "PNG":
            turned = _png_orientation(path) in _TURNED
        else:
            turned = image.getexif().get(_ORIENTATION, 1) in _TURNED
    return (width, height) if turned else (height, width)


def seems_whole(path: Path) -> bool:
    """Whether a PNG or JPEG file ends as it must, without decoding; True for other formats.

    False is a suspicion only (bytes after the end are legal): decode to be sure.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        if head == _PNG_SIGNATURE:
            return any(name == b"IEND" for name, _ in _png_chunks(path))
        if head[:2] != b"\xff\xd8":
            return True
        file.seek(max(os.path.getsize(path) - 64, 0))
        return b"\xff\xd9" in file.read()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _unreadable_named(path), Image.open(path) as image:
        image.load()
        yield ImageOps.exif_transpose(image)


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise UserError(f"image file {path} does not exist") from None
    except _UNREADABLE as error:
        raise UserError(
            f"cannot read image {path}: {_reason(error)}; replace or remove the file"
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image, whatever its name says"
    return str(error) or type(error).__name__


def _colour(image: Image.Image) -> Image.Image:
    # through RGBA, so that a palette's transparent entry keeps its colour
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _high_bytes(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(
            f"cannot read image {path}: its values are {values.dtype} and not of 8 or 16 bits; "
            "convert it first"
        )
    return np.right_shift(values.astype(np.uint16), 8).astype(np.uint8)


def _png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, data) of each whole chunk; data only of eXIf, the rest is skipped."""
    end = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            after = file.tell() + length + 4
            if after > end:
                return
            yield name, file.read(length) if name == b"eXIf" else b""
            file.seek(after)


def _png_orientation(path: Path) -> int:
    for name, data in _png_chunks(path):
        if name == b"eXIf":
            exif = Image.Exif()
            exif.load(b"Exif\x00\x00" + data)
            return int(exif.get(_ORIENTATION, 1))
    return 1


def _size_text(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"
