"""Photographs that ship inside scikit-image and scikit-learn, and folders a user adds."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from adbench.errors import UserError

# Diagrams, masks, logos and the synthetic phantom are left out: they are no photographs.
_SCIKIT_IMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
_SCIKIT_LEARN = ("china.jpg", "flower.jpg")
_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def packaged_photographs() -> list[Path]:
    """Return the photographs inside the installed packages.

    Raises:
        UserError: scikit-image is not installed (``adbench[distill]``).
    """
    found = []
    for package, folder, names in (
        ("skimage", "data", _SCIKIT_IMAGE),
        ("sklearn", "datasets/images", _SCIKIT_LEARN),
    ):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise UserError(f"the photographs need {package}: pip install 'adbench[distill]'")
        base = Path(spec.origin).parent / folder
        found += [base / name for name in names if (base / name).is_file()]
    return found


def loaded_photographs(folders: Sequence[str | Path], least: int) -> list[NDArray[np.uint8]]:
    """Return packaged photographs and those of ``folders`` as uint8 [H, W, 3] RGB.

    Small ones are enlarged until their short side is ``least`` pixels, large ones reduced to
    three times that, so that a crop shows something.
    """
    paths = packaged_photographs()
    for folder in folders:
        base = Path(folder).expanduser()
        own = sorted(p for p in base.rglob("*") if p.suffix.lower() in _ENDINGS)
        if not own:
            raise UserError(f"folders: no photograph in {folder}")
        paths += own
    return [_sized(path, least) for path in paths]


def _sized(path: Path, least: int) -> NDArray[np.uint8]:
    # A pipe or a device would be waited for for ever.
    try:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise UserError(f"{path} cannot be read as an image")
    short = min(image.shape[:2])
    factor = float(np.clip(short, least, 3 * least)) / short
    if factor != 1:
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=method)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
