"""Pixels and sizes of image files, by one stated rule for every format."""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from adbench.data.files import check_names, check_regular, shown_path
from adbench.errors import UserError

# what Pillow may take a file for: some of its other readers start programs (EPS: Ghostscript)
FORMATS = ("PNG", "BMP", "JPEG", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
DEEPEST = 16  # bits; what a deep file is taken to hold where nothing else is known

_ORIENTATION = int(ExifTags.Base.Orientation)
_WIDTH, _LENGTH = int(ExifTags.Base.ImageWidth), int(ExifTags.Base.ImageLength)
_BITS_PER_SAMPLE = int(ExifTags.Base.BitsPerSample)
_TURNED = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UNREADABLE = (
    OSError,
    SyntaxError,  # what Pillow raises for a broken PNG
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)


def is_image(path: Path) -> bool:
    """Whether ``path`` is named like an image; dot files (``._001.png``) never are."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the images directly in ``folder``, by name; an absent folder has none.

    What is named like an image but is none (a pipe, a link to nothing) is listed too: it is told
    when it is read, not passed over.

    Raises:
        UserError: a name is no UTF-8.
    """
    if not os.path.isdir(folder):
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.is_dir()]
    names = sorted(name for name in names if is_image(Path(name)))
    check_names(names, folder)
    return [folder / name for name in names]


def read_image(path: Path, bits: int | None = None) -> NDArray[np.uint8]:
    """Return the image as uint8 [H, W, 3] RGB, turned as its EXIF orientation says.

    Gray becomes three equal channels, alpha is dropped, palettes are resolved to their colours;
    of several pages the first counts. Files of 8 bits stay as they are. Of files of 16 bits a
    value v becomes min(v, 2^bits - 1) >> (bits - 8): the upper 8 of the ``bits`` that the camera
    used (``adbench.data.depth`` finds them). Whole numbers of 32 bits are read likewise where all
    of them fit into 16 bits; floating point is refused.

    Args:
        bits: 8..16, how many of a deep file's bits are used; None for all 16.

    Raises:
        UserError: no regular file, not an image, truncated, or values beyond 16 bits.
    """
    values = _values(path)
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    deep = DEEPEST if bits is None else bits
    upper = np.right_shift(np.minimum(values, 2**deep - 1), deep - 8).astype(np.uint8)
    return np.repeat(upper[..., None], 3, axis=2) if upper.ndim == 2 else upper


def peak_value(path: Path) -> int | None:
    """Return the largest value of a file of 16 bits; None for a file of 8 bits, seen by its header.

    Raises:
        UserError: as ``read_image``.
    """
    with _unreadable_named(path), Image.open(path, formats=FORMATS) as image:
        if not _is_deep(image, path):
            return None
    return int(_values(path).max())


def read_mask(paths: Sequence[Path], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of mask files as bool [H, W]; each file by the rule of ``read_defect``.

    Args:
        paths: mask files; none gives an empty mask.
        size: (height, width) of the image the masks belong to.

    Raises:
        UserError: a file cannot be read or has another size than its image.
    """
    union = np.zeros(size, dtype=np.bool_)
    for path in paths:
        mask = read_defect(path)
        if mask.shape != tuple(size):
            raise UserError(
                f"mask {shown_path(path)} is {_size_text(mask.shape)} pixels but its image is "
                f"{_size_text(size)} (width x height); the two must be equal"
            )
        union |= mask
    return union


def read_defect(path: Path) -> NDArray[np.bool_]:
    """Return bool [H, W], True where the mask file marks a defect, see ``Mask``.

    Raises:
        UserError: the file cannot be read.
    """
    return open_mask(path).defect


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask file's values.

    Attributes:
        values: [H, W] of any integer type; of a coloured file the largest channel.
        soft: whether it has grey edges or compression artefacts instead of class ids: more than
            32 values; or, reaching above 63, being a JPEG of more than two values, values that
            lie on slopes, or values around both ends (``_on_slopes``, ``_around_ends``).
    """

    values: NDArray[np.generic]
    soft: bool

    @property
    def defect(self) -> NDArray[np.bool_]:
        """[H, W]; any value but zero, so that class ids count whatever they are.

        Of a soft mask what lies above half of its range, (smallest + largest value) / 2.
        """
        if not self.soft:
            return np.asarray(self.values != 0)
        half = (float(self.values.min()) + float(self.values.max())) / 2
        return np.asarray(self.values.astype(np.float64) > half)


def open_mask(path: Path) -> Mask:
    """Return the values of a mask file and whether they are soft.

    Raises:
        UserError: the file cannot be read.
    """
    with _opened(path) as image:
        if image.mode.startswith(("I", "F")) or image.mode in ("L", "1"):
            values = np.asarray(image)
        else:
            values = np.asarray(np.asarray(_colour(image)).max(axis=2))
    return Mask(values, _is_soft(values, image.format in ("JPEG", "MPO")))


_CLASSES = 32  # values of a mask, zero included; no public set has as many kinds of defect
_HIGHEST_CLASS = 63  # what reaches above is drawn to be seen, e.g. with 255


def _is_soft(values: NDArray[np.generic], is_jpeg: bool) -> bool:
    found = np.unique(values)
    if len(found) <= 2 or len(found) > _CLASSES:
        return len(found) > _CLASSES
    if float(found[-1]) <= _HIGHEST_CLASS:
        return False
    return is_jpeg or _around_ends(found) or _on_slopes(values)


def _around_ends(found: NDArray[np.generic]) -> bool:
    """Whether sorted values keep to the lower and upper eighth of their range, two inside of each.

    Ripples that a lossy format leaves around two grey values, stored anew without loss.
    """
    place = (found - found[0]).astype(np.float64) / float(found[-1] - found[0])
    low, high = place <= 1 / 8, place >= 7 / 8
    return bool((low | high).all() and low.sum() > 2 and high.sum() > 2)


def _on_slopes(values: NDArray[np.generic]) -> bool:
    """Whether nine in ten pixels between smallest and largest value lie on a slope.

    That is, have a darker and a brighter pixel among their eight neighbours, as edges drawn with
    anti-aliasing do. Class ids cover areas, whose inside is flat.
    """
    pixels = values.astype(np.float32)
    between = (pixels > pixels.min()) & (pixels < pixels.max())
    around = np.ones((3, 3), np.uint8)
    slope = (cv2.erode(pixels, around) < pixels) & (cv2.dilate(pixels, around) > pixels)
    return bool(slope[between].mean() >= 0.9)


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
            raise UserError(
                f"{shown_path(path)} is coloured; a mask of one channel is expected here"
            )
        values = values[..., 0]
    return values


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) after EXIF orientation, from the header alone.

    Raises:
        UserError: no regular file, or not an image.
    """
    with _unreadable_named(path), Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # Pillow's versions differ in whether .size is turned already; the tags never are
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_LENGTH]
        turned = _orientation(image, path) in _TURNED
    return (width, height) if turned else (height, width)


def png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, data) of each whole chunk; data only of eXIf, the rest is skipped."""
    end = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(len(PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            after = file.tell() + length + 4
            if after > end:
                return
            yield name, file.read(length) if name == b"eXIf" else b""
            file.seek(after)


def decode(path: Path, *, coarse: bool = False) -> None:
    """Decode a file and forget it.

    Args:
        coarse: JPEG at an eighth of its size: every coded bit is read all the same.

    Raises:
        UserError: as ``read_image``.
    """
    with _unreadable_named(path), Image.open(path, formats=FORMATS) as image:
        if coarse and image.format == "JPEG":
            image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))
        image.load()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _unreadable_named(path), Image.open(path, formats=FORMATS) as image:
        image.load()
        turned = ImageOps.exif_transpose(image)
        turned.format = image.format
        yield turned


@contextmanager
def _unreadable_named(path: Path) -> Iterator[None]:
    check_regular(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow: what matters is raised
            yield
    except FileNotFoundError:
        raise UserError(f"image file {shown_path(path)} does not exist") from None
    except _UNREADABLE as error:
        raise UserError(
            f"cannot read image {shown_path(path)}: {_reason(error)}; replace or remove the file"
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image that can be read, whatever its name says"
    if str(error).startswith(
        "decoder error"
    ):  # libtiff's and libwebp's numbers tell nobody anything
        return "its compressed data are damaged or cut off"
    return str(error) or type(error).__name__


def _values(path: Path) -> NDArray[np.generic]:
    """Return uint8 [H, W, 3], or uint16 [H, W] or [H, W, 3] of a deep file, turned."""
    with _unreadable_named(path), Image.open(path, formats=FORMATS) as image:
        deep, orientation = _is_deep(image, path), _orientation(image, path)
        if deep and (not image.mode.startswith(("I", "F")) or _turned_by_tag(image, orientation)):
            return _by_opencv(path, 1 if image.format == "TIFF" else orientation)
        image.load()
        turned = ImageOps.exif_transpose(image)
        if deep:
            return _sixteen_bits(np.asarray(turned), path)
        return np.array(_colour(turned), dtype=np.uint8)


def _is_deep(image: Image.Image, path: Path) -> bool:
    """Whether the file holds more than 8 bits a channel, which Pillow would cut in colour."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "PNG":
        with open(path, "rb") as file:
            return file.read(25)[24:] == b"\x10"
    if isinstance(image, TiffImageFile) and image.mode in ("L", "LA", "RGB", "RGBA"):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) == DEEPEST
    return False


def _turned_by_tag(image: Image.Image, orientation: int) -> bool:
    # Pillow forgets the orientation of a TIFF of 16 bits without turning it
    return isinstance(image, TiffImageFile) and image.mode.startswith("I;16") and orientation != 1


def _by_opencv(path: Path, orientation: int) -> NDArray[np.uint16]:
    """Return uint16 [H, W] or [H, W, 3] RGB; OpenCV turns TIFF itself and PNG never."""
    found = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16:
        raise ValueError("its 16 bits cannot be decoded")
    if found.ndim == 3:
        found = found[..., 2::-1]
    return np.ascontiguousarray(_turned(found.astype(np.uint16), orientation))


def _turned(pixels: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """Return what EXIF's ``orientation`` (1..8) asks for."""
    if orientation in _TURNED:
        pixels = pixels.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    left = orientation in (2, 3, 6, 7)
    return pixels[:: -1 if down else 1, :: -1 if left else 1]


def _colour(image: Image.Image) -> Image.Image:
    # through RGBA, so that a palette's transparent entry keeps its colour
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bits(values: NDArray[np.generic], path: Path) -> NDArray[np.uint16]:
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(
            f"cannot read image {shown_path(path)}: its values are {values.dtype} and not of 8 or "
            "16 bits; convert it first"
        )
    return values.astype(np.uint16)


def _orientation(image: Image.Image, path: Path) -> int:
    """Return EXIF's orientation, 1..8; of PNG from the file, where Pillow would decode it."""
    if image.format != "PNG":
        if isinstance(image, TiffImageFile):
            return int(image.tag_v2.get(_ORIENTATION, 1))
        return int(image.getexif().get(_ORIENTATION, 1) or 1)
    for name, data in png_chunks(path):
        if name == b"eXIf":
            exif = Image.Exif()
            exif.load(b"Exif\x00\x00" + data)
            return int(exif.get(_ORIENTATION, 1))
    return 1


def _size_text(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"
