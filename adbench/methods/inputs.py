"""Pictures as people have them, brought to a detector as its run brought its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adbench.data.fit import Size, fitted, unfitted
from adbench.data.images import read_image
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.config.schema import Fit
    from adbench.methods.base import Detector, Prediction


@torch.inference_mode()
def predicted(detector: Detector, image: Any) -> Prediction:
    """Return what ``Detector.predict`` promises."""
    from adbench.methods.base import Prediction

    keys = detector.pictures or {}
    fit = cast("Fit", keys.get("fit", "squash"))
    pixels = _pixels(image, keys.get("bits"))
    original = (pixels.shape[1], pixels.shape[2])
    height, width = keys.get("size", original)
    size = (int(height), int(width))
    rows = np.stack([fitted(row, size, fit) for row in pixels])
    tensor = torch.from_numpy(rows).permute(0, 3, 1, 2).to(torch.float32).div_(255.0).contiguous()
    found = detector(tensor.to(_device(detector)))
    maps = found.anomaly_map.float().cpu()
    if size != original:
        maps = _in_frame(maps, original, fit)
    return Prediction(found.score.float().cpu(), maps)


def _device(detector: Detector) -> torch.device:
    tensors = [*detector.parameters(), *detector.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _in_frame(maps: Tensor, original: Size, fit: Fit) -> Tensor:
    rows = [unfitted(row[0].numpy(), original, fit) for row in maps]
    return torch.from_numpy(np.stack(rows))[:, None]


def _pixels(image: Any, bits: int | None) -> NDArray[np.uint8]:
    """Return [B, H, W, 3] uint8."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), bits)[None]
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"), dtype=np.uint8)[None]
    if isinstance(image, Tensor):
        return _of_tensor(image)
    found = np.asarray(image)
    if found.dtype == np.uint8 and found.ndim == 2:
        found = found[..., None].repeat(3, axis=2)
    if found.dtype == np.uint8 and found.ndim in (3, 4) and found.shape[-1] == 3:
        return found if found.ndim == 4 else found[None]
    raise UserError(
        f"predict: found an array {list(found.shape)} of {found.dtype}; uint8 [H, W, 3] RGB is "
        "expected (OpenCV reads BGR: turn it first)"
    )


def _of_tensor(image: Tensor) -> NDArray[np.uint8]:
    found = image if image.ndim == 4 else image[None]
    if not found.is_floating_point() or found.ndim != 4 or found.shape[1] != 3:
        raise UserError(
            f"predict: found a tensor {list(image.shape)} of {image.dtype}; floating point "
            "[3, H, W] or [B, 3, H, W] in 0..1 is expected"
        )
    # as files are stored: what was 8 bits before comes back to exactly that
    pixels = (found.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()
