"""What is checked: a method, shrunk, on a tiny data set, trained once for all checks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.data.cache import resized_image
from adbench.data.datamodule import DataModule
from adbench.methods.base import AnomalyModule, Requirements
from adbench.runs.pictures import write_png
from adbench.training.build import build_module
from adbench.training.session import train

CATEGORY = "nut"
SIZE = (48, 40)  # height and width of its pictures
TRAIN_IMAGES = 7
SHRUNK = (
    "dataset=mvtec",
    f"dataset.category={CATEGORY}",
    "dataset.hold_out=0.15",
    "hardware=cpu",
    "hardware.threads=1",
    "train.epochs=2",
    "train.batch_size=4",
    "train.checkpoint_minutes=0",
    "images.save=1",
    "run.name=tiny",
)


class DoesNotApply(Exception):  # noqa: N818  (no error)
    """A check has nothing to say of this method; the message says why."""


class Subject:
    """One method under its checks.

    Args:
        words: overrides that choose the method and make it small; they go before ``SHRUNK``'s.
        data: folder with the category ``nut`` in MVTec's layout, 48x40 px (``tiny_data``).
        root: folder for its run folders.
        config_dir: the folder that holds its yaml, where it is not adbench's own.
    """

    def __init__(
        self, words: Sequence[str], data: Path, root: Path, config_dir: Path | None = None
    ) -> None:
        self.words, self.data, self.root, self.config_dir = list(words), data, root, config_dir
        self.seen: list[int] = []  # test images that the hooks of training were shown

    def configured(self, root: Path, *more: str) -> dict[str, Any]:
        """Return the shrunk configuration, its run folders below ``root``."""
        places = [f"dataset.root={self.data}", f"run.root={root}"]
        return compose_config("train", [*SHRUNK, *places, *self.words, *more], self.config_dir)

    @cached_property
    def module(self) -> AnomalyModule:
        """The untrained module, built once."""
        config = self.configured(self.root)
        return build_module(config, settings(config))

    def requirements(self) -> Requirements:
        """Return what the method declares for the tiny data set."""
        return self.module.requirements(TRAIN_IMAGES)

    @cached_property
    def folder(self) -> Path:
        """The run folder of the one training, made without a network, hooks watched."""
        kind = type(self.module)
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(socket.socket, "connect", _no_network))
            for name in ("prepare", "finish"):
                watched = self._watched(getattr(kind, name))
                stack.enter_context(mock.patch.object(kind, name, watched))
            return self.train(self.root / "first")

    def train(self, root: Path, say: Callable[[str], None] | None = None) -> Path:
        """Train below ``root``; return the run folder."""
        (folder,) = train(self.configured(root), [], say or _quiet)
        return folder

    def _watched(self, method: Callable[..., None]) -> Callable[..., None]:
        def called(module: AnomalyModule, datamodule: DataModule) -> None:
            self.seen.append(len(datamodule.test_samples))
            return method(module, datamodule)

        return called

    def test_images(self) -> Tensor:
        """Return the test pictures: [N, 3, 48, 40] float32 in 0..1."""
        paths = sorted((self.data / CATEGORY / "test").rglob("*.png"))
        pixels = np.stack([resized_image(path, SIZE) for path in paths])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def _quiet(line: str) -> None:
    """Say nothing."""


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("there is no network while a method is checked")


def tiny_data(root: Path) -> Path:
    """Write the category ``nut`` below ``root``: noise, with a bright hole where defective."""
    rng = np.random.default_rng(0)
    for split, count in (("train/good", TRAIN_IMAGES), ("test/good", 3), ("test/hole", 3)):
        for number in range(count):
            image = rng.integers(80, 120, (*SIZE, 3), dtype=np.uint8)
            name = f"{number:03d}"
            if split == "test/hole":
                mask = np.zeros((*SIZE, 3), np.uint8)
                mask[12:24, 10:20] = 255
                image[mask > 0] = 250
                truth = root / CATEGORY / "ground_truth/hole" / f"{name}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                write_png(truth, mask)
            path = root / CATEGORY / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, image)
    return root
