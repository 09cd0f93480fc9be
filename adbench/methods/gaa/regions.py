"""Semantic regions of normal pictures: where a defect of some type may lie at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.data.batch import pictures
from adbench.data.images import read_image
from adbench.errors import UserError
from adbench.methods.gaa.segmenting import Sam, SegGpt, check_segmenter
from adbench.methods.gaa.settings import RegionKeys
from adbench.methods.gaa.units import Picture
from adbench.synthesis.foreground import otsu_foreground

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule
    from adbench.data.sample import Sample

_FITTED = 24  # pictures that groups of patch features are fitted to
_PLACE = 0.5  # weight of a patch's position beside its features


class Regions:
    """Labels [H, W] uint8 of any picture of the category; 0 is no region.

    Args:
        keys: how they are found.
        extractor: of patch features, for ``features``, ``propagate`` and ``sam``.
        device: of networks.

    Raises:
        UserError: no extractor or no weights where they are needed.
    """

    def __init__(
        self, keys: RegionKeys, extractor: FeatureExtractor | None, device: torch.device
    ) -> None:
        self.keys, self.extractor, self.device = keys, extractor, device
        self._known: Tensor | None = None
        self._labels: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)
        self._carry: SegGpt | None = None
        if keys.kind in ("features", "propagate", "sam") and extractor is None:
            raise UserError(f"model.regions.kind={keys.kind} compares features: backbone=bundled")
        if keys.kind in ("sam", "seggpt"):
            self._folder = check_segmenter(keys.kind, keys.weights)

    def prepare(self, datamodule: DataModule, seed: int) -> None:
        """Fit what is shared by all pictures."""
        if self.keys.kind == "features":
            self._fit_groups(datamodule, seed)
        elif self.keys.kind == "sam":
            (image,) = pictures(datamodule.train_images(torch.tensor([0])))
            self._know([(image, Sam(self._folder, self.device)(image))])
        elif self.keys.kind == "propagate":
            self._know(self._references(datamodule))
        elif self.keys.kind == "seggpt":
            images, labels = zip(*self._references(datamodule), strict=True)
            self._carry = SegGpt(self._folder, self.device, list(images), list(labels))

    def of(self, image: Picture, sample: Sample) -> Picture:
        """Return the labels of one picture."""
        size, kind = image.shape[:2], self.keys.kind
        if kind == "full":
            return np.ones(size, dtype=np.uint8)
        if kind == "foreground":
            return otsu_foreground(image).astype(np.uint8)
        if kind in ("template", "files"):
            return self._read(sample, size)
        if self._carry is not None:
            return self._carry(image)
        found = self._nearest(image)
        grown = cv2.resize(found, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
        return np.asarray(cv2.medianBlur(grown, 5), dtype=np.uint8)

    # From files

    def _read(self, sample: Sample, size: tuple[int, ...]) -> Picture:
        root = Path(str(self.keys.root)).expanduser()
        path = root
        if self.keys.kind != "template":
            path = root / sample.category / f"{sample.image.stem}.png"
        if not path.is_file():
            hint = "; kind=propagate carries a few over to all" if self.keys.kind == "files" else ""
            raise UserError(f"model.regions.root: {path} is missing for {sample.relative}{hint}")
        labels = read_image(path).max(-1)
        if not labels.any():
            raise UserError(f"model.regions.root: {path} holds no region: every pixel is 0")
        resized = cv2.resize(labels, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
        return np.asarray(resized, dtype=np.uint8)

    def _references(self, datamodule: DataModule) -> list[tuple[Picture, Picture]]:
        """Return the canvases that have a picture of labels, and those labels [H, W]."""
        root = Path(str(self.keys.root)).expanduser()
        found = []
        for number, sample in enumerate(datamodule.train_samples):
            if (root / sample.category / f"{sample.image.stem}.png").is_file():
                (image,) = pictures(datamodule.train_images(torch.tensor([number])))
                found.append((image, self._read(sample, image.shape[:2])))
        if not found:
            raise UserError(
                f"model.regions.root={root} holds no label picture of a training image "
                "(ROOT/CATEGORY/STEM.png); three to five are needed"
            )
        return found

    def _know(self, references: list[tuple[Picture, Picture]]) -> None:
        """Keep the patch features of references, each with its label."""
        rows, labels = [], []
        for image, own in references:
            found, shape = self._patches(image)
            rows.append(found)
            labels.append(cv2.resize(own, shape[::-1], interpolation=cv2.INTER_NEAREST).ravel())
        self._known, self._labels = torch.cat(rows), np.concatenate(labels)

    # From patch features

    def _fit_groups(self, datamodule: DataModule, seed: int) -> None:
        from sklearn.cluster import KMeans

        count = len(datamodule.train_samples)
        chosen = np.linspace(0, count - 1, min(count, _FITTED)).round().astype(int)
        images = pictures(datamodule.train_images(torch.from_numpy(chosen)))
        rows = torch.cat([self._patches(image)[0] for image in images])
        fitted = KMeans(self.keys.parts, n_init=4, random_state=seed).fit(rows.numpy())
        self._known = torch.from_numpy(fitted.cluster_centers_).float()
        self._labels = np.arange(1, self.keys.parts + 1).astype(np.uint8)

    @torch.no_grad()
    def _patches(self, image: Picture) -> tuple[Tensor, tuple[int, int]]:
        """Return features and position [P, D] of the patches of one picture, and their grid."""
        assert self.extractor is not None
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().to(self.device) / 255
        maps = self.extractor(pixels)
        height, width = maps[0].shape[-2:]
        layers = [F.normalize(F.adaptive_avg_pool2d(m.float(), (height, width)), 1) for m in maps]
        features = F.avg_pool2d(torch.cat(layers, 1), 3, 1, 1)[0].flatten(1).T.cpu()
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
        )
        radius = torch.stack([y, x], -1).reshape(-1, 2)
        return torch.cat([features, _PLACE * radius], 1), (height, width)

    def _nearest(self, image: Picture) -> Picture:
        assert self._known is not None
        rows, shape = self._patches(image)
        near = torch.cdist(rows, self._known).argmin(1).numpy()
        return np.asarray(self._labels[near].reshape(shape), dtype=np.uint8)


def most_common(labels: list[Picture]) -> Picture:
    """Return the label that most canvases have at each pixel."""
    stack = np.stack(labels)
    names = np.unique(stack)
    counts = np.stack([(stack == name).sum(0) for name in names])
    return np.asarray(names[counts.argmax(0)], dtype=np.uint8)
