"""Constants from held-out normals, plain and with synthetic defects; never from the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adbench.methods.base import seeded_generator
from adbench.methods.glad.adaptive_steps import Sequences
from adbench.methods.glad.detector import GladDetector, pixel_ratio
from adbench.methods.glad.maps import pixel_difference, top_mean
from adbench.metrics import image_metrics, pixel_metrics
from adbench.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

ENOUGH = 10  # held-out images below which a quantile says little
_LIMIT = 64
_FITTED = 32
_COMPOSITES = 0xCA11B
STARTS = (100, 200, 300, 400, 500, 600, 750, 900)
RESTARTS = (0, 1, 2, 4)
_WORTH = 0.005  # of AUROC, image's and pixel's together, that more steps must bring
TOPS = (1, 25, 100, 250, 1000, 4000)


class HeldOut(NamedTuple):
    """Held-out images of one batch: normal, with defects, and where those are."""

    normal: Tensor
    damaged: Tensor
    mask: Tensor


def held_out_images(
    datamodule: DataModule, synthesis: Synthesizer | None, seed: int, device: torch.device
) -> list[HeldOut]:
    """Return at most 64 held-out normals, each with one synthetic composite."""
    found: list[HeldOut] = []
    for number, batch in enumerate(datamodule.val_batches()):
        if number * datamodule.batch_size >= _LIMIT:
            break
        image, index = batch.image.to(device), batch.index.to(device)
        if synthesis is None:
            found.append(HeldOut(image, image, torch.zeros_like(image[:, :1], dtype=torch.bool)))
            continue
        generator = seeded_generator(device, seed, _COMPOSITES, number)
        foreground = synthesis.foreground_masks(index, "val")
        made = synthesis(image, foreground=foreground, generator=generator)
        found.append(HeldOut(image, made.image, made.mask))
    return found


@torch.no_grad()
def calibrated(
    detector: GladDetector, images: Sequence[HeldOut], normal: Sequence[Tensor] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settle what the keys leave open; return the constants and what they were chosen from.

    In this order: delta, gate, the start of fixed steps, the metric of residuals, n, the pixel
    constant, K. Each is chosen with the earlier ones in place.

    Args:
        images: held out.
        normal: training images, which the metric of residuals is fitted to: held-out ones stay
            as foreign to it as test images are, since the threshold comes from them.
    """
    keys = detector.keys
    report: dict[str, Any] = {}
    if keys.reconstruct == "adaptive":
        report |= _adaptive(detector, images)
    if keys.reconstruct == "fixed" and keys.start == "auto":
        report["start"] = _best(detector, images, "start", STARTS, normal)
    fit_residuals(detector, normal)
    if keys.reconstruct == "adaptive" and keys.ads.restart == "auto":
        report["restart"] = _best(detector, images, "restart", RESTARTS, worth=_WORTH)
    if keys.score.pixel > 0 and keys.score.pixel_scale == "held_out":
        detector.settle(pixel=_pixel_constant(detector, images))
    if keys.score.top == "auto":
        report["top"] = _best_top(detector, images)
    return detector.config["settled"], report


def _adaptive(detector: GladDetector, images: Sequence[HeldOut]) -> dict[str, Any]:
    keys = detector.keys.ads
    normal = torch.cat([differences(detector, batch.normal).score for batch in images])
    if keys.delta == "auto":
        largest = normal.amax(1).double()
        detector.settle(delta=keys.margin * float(largest.quantile(keys.quantile)))
    if keys.gate:
        detector.settle(gate=_smallest_seen(detector, images))
    rising = float((normal.diff(dim=1) >= 0).float().mean())
    return {
        "differences_of_normals": [[round(float(s), 5) for s in row] for row in normal],
        "share_of_rising_steps": round(rising, 4),
    }


def fit_residuals(detector: GladDetector, normal: Sequence[Tensor]) -> None:
    """Fit the metric of residuals, where there is one, to reconstructions of normal images."""
    if detector.residuals is None or not normal:
        return
    detector.residuals.fit(
        detector.feature_pairs(some, detector.reconstructed(some).image)
        for batch in normal
        for some in batch.split(detector.keys.micro_batch)
    )


def training_images(datamodule: DataModule, device: torch.device) -> list[Tensor]:
    """Return 32 normal training images, evenly spaced over all of them."""
    count = len(datamodule.train_samples)
    index = torch.linspace(0, count - 1, min(count, _FITTED)).round().long()
    return [datamodule.train_images(some).to(device) for some in index.split(8)]


def differences(detector: GladDetector, image: Tensor) -> Sequences:
    """Compare images at the working size along the walk, nothing decided; [B, steps] each."""
    found = []
    for some in image.split(detector.keys.micro_batch):
        latent = detector.diffusion.encode(some).float()
        found.append(detector.adaptive_steps(some).differences(latent, detector.noise(some)))
    return Sequences(*(torch.cat(part) for part in zip(*found, strict=True)))


def _smallest_seen(detector: GladDetector, images: Sequence[HeldOut]) -> float:
    """Return the smallest latent difference at which S > delta on damaged images; 0 if never."""
    delta = detector.settled.delta or 0.0
    found = [differences(detector, batch.damaged) for batch in images]
    seen = torch.cat([walk.latent[walk.score > delta] for walk in found])
    return float(seen.min()) if len(seen) else 0.0


def _best(
    detector: GladDetector,
    images: Sequence[HeldOut],
    name: str,
    choices: Sequence[int],
    normal: Sequence[Tensor] = (),
    worth: float = 0.0,
) -> list[dict[str, Any]]:
    """Settle ``name`` to the choice that tells composites from normals best; return the table.

    The measure is image AUROC + pixel AUROC; the first within ``worth`` of the best wins.
    """
    rows: list[dict[str, Any]] = []
    for choice in choices:
        detector.settle(**{name: choice})
        fit_residuals(detector, normal)
        rows.append({name: choice, **_separation(detector, images)})
    measures = [row["image_auroc"] + row["pixel_auroc"] for row in rows]
    best = next(i for i, value in enumerate(measures) if value >= max(measures) - worth)
    detector.settle(**{name: choices[best]})
    return rows


def _maps(detector: GladDetector, images: Sequence[HeldOut]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield maps [n, 1, H, W] and masks of all images, normal and damaged."""
    for batch in images:
        empty = torch.zeros_like(batch.mask)
        for image, mask in ((batch.normal, empty), (batch.damaged, batch.mask)):
            for some, own in zip(
                image.split(detector.keys.micro_batch),
                mask.split(detector.keys.micro_batch),
                strict=True,
            ):
                yield detector.anomaly_map(some, detector.reconstructed(some).image), own


def _separation(detector: GladDetector, images: Sequence[HeldOut]) -> dict[str, float]:
    maps, masks = zip(*_maps(detector, images), strict=True)
    all_maps, all_masks = torch.cat(maps)[:, 0].cpu(), torch.cat(masks)[:, 0].cpu()
    scores = top_mean(all_maps, detector.settled.top).double().numpy()
    labels = all_masks.flatten(1).any(1).long().numpy()
    pixel = pixel_metrics(list(all_maps.numpy()), list(all_masks.numpy()))
    return {
        "image_auroc": _auroc(scores, labels),
        "pixel_auroc": round(float(pixel["auroc"] or 0.5), 5),
    }


def _auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    return round(float(image_metrics(scores, labels)["auroc"] or 0.5), 5)


def _best_top(detector: GladDetector, images: Sequence[HeldOut]) -> list[dict[str, Any]]:
    maps, masks = zip(*_maps(detector, images), strict=True)
    all_maps = torch.cat(maps).cpu()
    labels = torch.cat(masks).flatten(1).any(1).long().cpu().numpy()
    rows = [
        {"top": top, "image_auroc": _auroc(top_mean(all_maps, top).double().numpy(), labels)}
        for top in TOPS
    ]
    # K = 250 of the code wins among equals.
    best = max(rows, key=lambda row: (row["image_auroc"], row["top"] == 250))
    detector.settle(top=int(best["top"]))
    return rows


def _pixel_constant(detector: GladDetector, images: Sequence[HeldOut]) -> float:
    """Return the mean over held-out normals of max M / max P."""
    ratios = []
    for batch in images:
        for some in batch.normal.split(1):
            made = detector.reconstructed(some).image
            layers = detector.feature_maps(some, made)
            pixel = pixel_difference(some, made, detector.backbone.std)
            ratios.append(float(pixel_ratio(layers, pixel, detector.image_size)))
    return float(np.mean(ratios))
