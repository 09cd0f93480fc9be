"""Regions by SAM and SegGPT, as the paper finds them, where their weights are given."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adbench.errors import UserError
from adbench.methods.gaa.units import Picture

_MOST = 12  # regions of a picture
_LEAST = 0.005  # share of a picture that a region covers at least
_POINTS, _BATCH = 16, 64  # of SAM's grid: along a side, at once
_SAME = 0.7  # IoU above which two masks are one
_FILES = ("config.json", "preprocessor_config.json")
_INSTEAD = "kind=features groups patch features, kind=files and propagate read label pictures"


def check_segmenter(kind: str, weights: str | None) -> Path:
    """Return the folder of a model in transformers' layout.

    Raises:
        UserError: none is given, it lacks a file, or transformers is missing; with the ways out.
    """
    if weights is None:
        raise UserError(
            f"model.regions.weights is missing: kind={kind} needs a folder that transformers' "
            f"save_pretrained wrote; {_INSTEAD}"
        )
    folder = Path(weights).expanduser()
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("model.safetensors")
    if missing:
        raise UserError(
            f"model.regions.weights={weights}: {', '.join(missing)} is missing; {_INSTEAD}"
        )
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            f"model.regions.kind={kind} needs the package transformers (pip install "
            f"'adbench[text]'); {_INSTEAD}"
        )
    return folder


def _model(name: str, folder: Path, device: torch.device) -> Any:
    """Return a frozen model; transformers itself only warns of weights that are missing."""
    import transformers

    try:
        made, told = getattr(transformers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        missing = sorted(told["missing_keys"])
        if missing:
            raise ValueError(f"no weights for {missing[0]}")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"model.regions.weights={folder} is no {name} ({reason})") from error
    return made.eval().requires_grad_(False).to(device)


class Sam:
    """Everything that SAM sees in a picture, one label for each region.

    A grid of points is asked one by one; the best of each point's masks counts where SAM trusts
    it. (transformers' own pipeline needs torchvision's compiled operators.)

    Args:
        folder: as ``check_segmenter`` returns it.
        trust: IoU that SAM predicts for its mask, at least.

    Raises:
        UserError: the folder holds another model.
    """

    def __init__(self, folder: Path, device: torch.device, trust: float = 0.88) -> None:
        from transformers import SamImageProcessor

        self._model = _model("SamModel", folder, device)
        self._processor: Any = SamImageProcessor.from_pretrained(folder, local_files_only=True)
        self._device, self._trust = device, trust

    @torch.no_grad()
    def __call__(self, image: Picture) -> Picture:
        """Return labels [H, W] uint8 of a picture [H, W, 3]; small regions lie on large ones.

        Raises:
            UserError: nothing is found.
        """
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        features = self._model.get_image_embeddings(inputs["pixel_values"])
        high, wide = (int(v) for v in inputs["reshaped_input_sizes"][0])
        at = (torch.arange(_POINTS, device=self._device) + 0.5) / _POINTS
        points = torch.cartesian_prod(at * wide, at * high)
        masks: list[Any] = []
        scores: list[Any] = []
        for some in points.split(_BATCH):
            said = self._model(image_embeddings=features, input_points=some[None, :, None])
            made = self._processor.post_process_masks(
                said.pred_masks.cpu(),
                inputs["original_sizes"].tolist(),
                inputs["reshaped_input_sizes"].tolist(),
            )[0]
            trust, best = said.iou_scores[0].cpu().max(-1)
            for number in (trust >= self._trust).nonzero().flatten().tolist():
                masks.append(made[number, int(best[number])].numpy().astype(bool))
                scores.append(float(trust[number]))
        order = sorted(range(len(masks)), key=lambda n: -scores[n])
        return labelled(distinct([masks[n] for n in order]), (image.shape[0], image.shape[1]))


def distinct(masks: list[Any]) -> list[Any]:
    """Return the masks [H, W], best first, without those that repeat a better one (IoU > 0.7)."""
    kept: list[Any] = []
    for mask in masks:
        if all((mask & k).sum() <= _SAME * max(1, (mask | k).sum()) for k in kept):
            kept.append(mask)
    return kept


def labelled(masks: list[Any], size: tuple[int, int]) -> Picture:
    """Return masks [H, W] as labels, 1 the largest; at most 12, none below 0.5 % of the picture.

    Raises:
        UserError: none is left.
    """
    kept = sorted((m for m in masks if m.mean() >= _LEAST), key=lambda m: -int(m.sum()))[:_MOST]
    labels = np.zeros(size, dtype=np.uint8)
    for number, mask in enumerate(kept, 1):
        labels[mask] = number
    if not labels.any():
        raise UserError(f"model.regions.kind=sam found no region in the first canvas; {_INSTEAD}")
    return labels


class SegGpt:
    """Labels of a few pictures, carried over to any other by SegGPT.

    Args:
        folder: as ``check_segmenter`` returns it.
        images, labels: references, [H, W, 3] and [H, W] uint8 each.

    Raises:
        UserError: the folder holds another model.
    """

    def __init__(
        self, folder: Path, device: torch.device, images: list[Picture], labels: list[Picture]
    ) -> None:
        from transformers import SegGptImageProcessor

        self._model = _model("SegGptForImageSegmentation", folder, device)
        self._processor: Any = SegGptImageProcessor.from_pretrained(folder, local_files_only=True)
        self._images, self._device = images, device
        self._names = np.unique(np.concatenate([own.ravel() for own in labels]))
        # SegGPT counts its labels from 1; 0 is no region
        self._names = np.concatenate([[0], self._names[self._names > 0]]).astype(np.uint8)
        self._labels = [np.searchsorted(self._names, own).astype(np.uint8) for own in labels]

    @torch.no_grad()
    def __call__(self, image: Picture) -> Picture:
        """Return the labels [H, W] that most references give to each pixel."""
        count = len(self._names) - 1
        inputs = self._processor(
            images=[image] * len(self._images),
            prompt_images=self._images,
            prompt_masks=self._labels,
            num_labels=count,
            return_tensors="pt",
        ).to(self._device)
        said = self._model(**inputs)
        found = self._processor.post_process_semantic_segmentation(
            said, target_sizes=[image.shape[:2]] * len(self._images), num_labels=count
        )
        votes = torch.stack([each.long().clamp(0, count) for each in found])
        return np.asarray(self._names[votes.mode(0).values.cpu().numpy()], dtype=np.uint8)
