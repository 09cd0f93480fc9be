"""A run's detector as an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adbench.deploy.decision import Rule
from adbench.deploy.inspector import Inspector
from adbench.deploy.reading import Reading
from adbench.deploy.runtime import file_sha256
from adbench.errors import UserError
from adbench.methods.base import Detector, load_detector
from adbench.runs.files import read_yaml
from adbench.training.threshold import FILE, StoredThreshold, Threshold, read_threshold


class TorchEngine:
    """Scores with a detector; images come to it as they do in training and testing."""

    name = "torch"

    def __init__(self, detector: Detector, device: torch.device) -> None:
        self.detector, self.device = detector.to(device).eval(), device

    @torch.inference_mode()
    def __call__(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return scores [B] and maps [B, h, w] of images [B, h, w, 3] uint8."""
        tensor = as_input(images).to(self.device)
        found = self.detector(tensor)
        scores = found.score.float().cpu().numpy()
        return scores, found.anomaly_map[:, 0].float().cpu().numpy()


def as_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return [B, 3, h, w] float32 in 0..1 of images [B, h, w, 3] uint8, as data.datamodule does."""
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255.0).contiguous()


def open_detector(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[Detector, Reading, Rule, str]:
    """Return a run's detector, how pictures come to it, its rule, and its file's sha256.

    Raises:
        UserError: the folder holds no finished detector, or a damaged one.
    """
    detector = load_detector(folder, device)
    card = folder / "detector.yaml"
    reading = Reading.of(read_yaml(card).get("pictures"), str(card))
    if (folder / FILE).exists():
        stored = read_threshold(folder)
    else:
        nothing = Threshold(None, f"{folder} has no {FILE}", None)
        stored = StoredThreshold(nothing, np.zeros(0), None)
    return detector, reading, Rule.of(stored), file_sha256(folder / "detector.safetensors")


def inspector_of_run(folder: Path, device: str = "auto", threads: int | None = None) -> Inspector:
    """Return the inspector of a run folder.

    Args:
        device: auto, cpu or gpu.
        threads: of torch; None leaves them.

    Raises:
        UserError: no finished detector there, or no such device here.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    there = torch.cuda.is_available()
    if device == "gpu" and not there:
        raise UserError("device=gpu: torch finds no GPU here; use device=cpu")
    chosen = torch.device("cuda" if there and device != "cpu" else "cpu")
    detector, reading, rule, sha256 = open_detector(folder, chosen)
    name = type(detector).__name__.removesuffix("Detector").lower()
    return Inspector(TorchEngine(detector, chosen), reading, rule, f"{name}@{sha256[:12]}", sha256)
