"""Does an autoencoder keep defects? Four figures on held-out normals with synthetic ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from adbench.diffusion.latent.base import Damage, Features, LatentDiffusion
from adbench.metrics import pixel_metrics
from adbench.runs.files import write_json
from adbench.runs.pictures import write_png

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule

WANTED = 0.8  # retention below which the adaptive step cannot see defects
_GAP = 0.02  # loss of pixel AUROC by the round trip that is still all right
_LIMIT = 48  # held-out images measured
_SHOWN = 4


@dataclass(slots=True)
class Preservation:
    """What the round trip D(E(.)) does to normal images x and damaged ones x'.

    Attributes:
        floor: mean feature distance of x and D(E(x)); the level of false alarms.
        retention: mean distance of D(E(x')) and D(E(x)) inside the masks, relative to that of x'
            and x: what the comparison of two decoded images can see of a defect.
        ideal: pixel AUROC of the distance of x' and x.
        ceiling: of x' and D(E(x)): a perfect repair.
        leak: of x' and D(E(x')): no repair. Ceiling - leak is what diffusion can contribute.
        pixels: mean absolute error of the round trip inside the masks, relative to the defects'
            contrast.
    """

    floor: float
    retention: float
    ideal: float | None
    ceiling: float | None
    leak: float | None
    pixels: float
    rows: list[Tensor] = field(default_factory=list, repr=False)

    def lines(self) -> list[str]:
        """Return what to say about it, warnings last."""
        told = ", ".join(
            f"{name} {value:.3f}"
            for name, value in self.figures().items()
            if value is not None and name != "rows"
        )
        found = [f"autoencoder and defects: {told}"]
        if self.retention < WANTED:
            found.append(
                f"WARNING: the autoencoder keeps {self.retention:.0%} of synthetic defects "
                f"({WANTED:.0%} wanted): the adaptive step will hardly see any; raise "
                "diffusion.autoencoder.channels or steps"
            )
        if None not in (self.ideal, self.ceiling) and self.ideal - self.ceiling > _GAP:  # type: ignore[operator]
            found.append(
                "WARNING: the round trip alone costs "
                f"{100 * (self.ideal - self.ceiling):.1f} points of pixel AUROC"  # type: ignore[operator]
            )
        return found

    def figures(self) -> dict[str, float | None]:
        """Return the figures by name."""
        return {name: value for name, value in asdict(self).items() if name != "rows"}


class _Pictures(NamedTuple):
    normal: Tensor
    damaged: Tensor
    normal_back: Tensor
    damaged_back: Tensor
    mask: Tensor


@torch.no_grad()
def measure(
    model: LatentDiffusion,
    features: Features,
    synthesis: Damage,
    datamodule: DataModule,
    seed: int,
    device: torch.device,
) -> Preservation:
    """Return the figures over the held-out normals (at most 48 of them)."""
    floor, kept, contrast, lost, plain = [], [], [], [], []
    maps: dict[str, list[Tensor]] = {"ideal": [], "ceiling": [], "leak": []}
    masks, rows = [], []
    for x in _pictures(model, synthesis, datamodule, seed, device):
        found = [features(image) for image in x[:4]]
        normal, damaged, normal_back, damaged_back = found
        size = (x.mask.shape[-2], x.mask.shape[-1])
        floor.append(token_distance(normal, normal_back, size).mean((1, 2, 3)))
        inside = x.mask.bool()
        kept.append(token_distance(damaged_back, normal_back, size)[inside])
        ideal = token_distance(damaged, normal, size)
        contrast.append(ideal[inside])
        maps["ideal"].append(ideal)
        maps["ceiling"].append(token_distance(damaged, normal_back, size))
        maps["leak"].append(token_distance(damaged, damaged_back, size))
        masks.append(x.mask)
        lost.append((x.damaged_back - x.damaged).abs().mean(1, keepdim=True)[inside])
        plain.append((x.damaged - x.normal).abs().mean(1, keepdim=True)[inside])
        rows += list(torch.cat([*x[:4], x.mask.float().expand(-1, 3, -1, -1)], -1).cpu())
    shown = rows[:: max(1, len(rows) // _SHOWN)][:_SHOWN]
    return Preservation(
        floor=float(torch.cat(floor).mean()),
        retention=_ratio(kept, contrast),
        **{name: _auroc(torch.cat(value), torch.cat(masks)) for name, value in maps.items()},
        pixels=_ratio(lost, plain),
        rows=shown,
    )


def _pictures(
    model: LatentDiffusion,
    synthesis: Damage,
    datamodule: DataModule,
    seed: int,
    device: torch.device,
) -> Iterator[_Pictures]:
    seen = 0
    for number, batch in enumerate(datamodule.val_batches()):
        if seen >= _LIMIT:
            return
        image, index = batch.image.to(device), batch.index.to(device)
        generator = torch.Generator(device).manual_seed(seed * 1000 + number)
        foreground = synthesis.foreground_masks(index, "val")
        made = synthesis(image, foreground=foreground, generator=generator)
        back = [model.decode(model.encode(x)).clamp(0, 1) for x in (image, made.image)]
        yield _Pictures(image, made.image, back[0], back[1], made.mask)
        seen += len(image)


def token_distance(
    first: Sequence[Tensor], second: Sequence[Tensor], size: tuple[int, int]
) -> Tensor:
    """Return [B, 1, H, W]: 1 - cosine of features at the same place, the mean over layers."""
    distances = [
        F.interpolate((1 - F.cosine_similarity(a, b))[:, None], size, mode="bilinear")
        for a, b in zip(first, second, strict=True)
    ]
    return torch.stack(distances).mean(0)


def _ratio(part: list[Tensor], whole: list[Tensor]) -> float:
    below = torch.cat(whole)
    if not len(below):
        return 1.0
    return float(torch.cat(part).mean() / below.mean().clamp_min(1e-12))


def _auroc(maps: Tensor, masks: Tensor) -> float | None:
    found = pixel_metrics(list(maps[:, 0].cpu().numpy()), list(masks[:, 0].cpu().numpy()))
    return found["auroc"]


def write_report(report: Preservation, folder: Path) -> None:
    """Write ``preservation.json`` and ``preservation.png`` (x, x', their round trips, mask).

    Raises:
        OSError: the picture cannot be written.
    """
    write_json(folder / "preservation.json", report.figures())
    sheet = torch.cat(report.rows, 1).permute(1, 2, 0).numpy()
    pixels = (sheet.clip(0, 1) * 255).round().astype(np.uint8)
    write_png(folder / "preservation.png", pixels)
