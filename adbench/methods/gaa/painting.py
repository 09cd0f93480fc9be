"""Painting into windows, and the chain with a latent diffusion model that paints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.latent.conditioning import Conditioning
from adbench.diffusion.latent.inpainting import inpainted
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.diffusion.latent.text import check_text_parts
from adbench.errors import UserError
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.chain import Maker, PasteMaker
from adbench.methods.gaa.concept import Concept
from adbench.methods.gaa.masks import Plan
from adbench.methods.gaa.paste import feathered
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.stages import Stages
from adbench.methods.gaa.units import Picture, RealDefects
from adbench.methods.gaa.windows import Window, brought, brought_mask, window_around
from adbench.runs.stages import Stage

SCRATCH, TEXT = "direct conditioning, scratch", "concept decomposition, published base"
_PAINT = 0xBA15


def painting_stages(
    keys: GaaKeys,
    backbone: FeatureExtractor,
    diffusion: nn.Module,
    seed: int,
    device: torch.device,
) -> Stages:
    """Return the stages with a latent diffusion model that paints.

    Raises:
        UserError: windows are not multiples of what the model takes.
    """
    assert isinstance(diffusion, LatentDiffusion)
    if keys.generate.net % diffusion.size_multiple:
        near = max(1, round(keys.generate.net / diffusion.size_multiple)) * diffusion.size_multiple
        raise UserError(
            f"model.generate.net={keys.generate.net}: a multiple of {diffusion.size_multiple} is "
            f"expected, such as {near}"
        )
    if isinstance(diffusion, StableDiffusion):
        check_text_parts(diffusion.folder)
    concept = Concept(keys, diffusion, seed, device)
    stage = Stage("concept", concept.run, concept.described(), ("cluster", "regions"))

    def maker(stages: Path, real: RealDefects, context: Any) -> tuple[Maker, float]:
        del context
        painter, visible = concept.restored(stages, real)
        return PaintMaker(painter, real, keys, seed), visible

    base = SCRATCH if isinstance(diffusion, ScratchDiffusion) else TEXT
    return Stages(
        keys,
        backbone,
        seed,
        device,
        base=base,
        outline=True,
        maker=maker,
        concept=stage,
    )


class PaintMaker:
    """Inpaints the plans' defects in windows, one defect of a picture after the other.

    Args:
        painter: trained.
        real: what the walk begins from where ``strength`` is below 1.
        keys: window, sampler and composite.
        seed: of the sampler's noise.
    """

    def __init__(self, painter: Conditioning, real: RealDefects, keys: GaaKeys, seed: int) -> None:
        self.painter, self.keys, self.seed = painter, keys.generate, seed
        self._paste = PasteMaker(real, keys)

    def __call__(
        self, plans: Sequence[Plan], canvases: Sequence[Picture], labels: Sequence[Picture]
    ) -> list[Picture]:
        images = [canvas.copy() for canvas in canvases]
        pasted = self._paste(plans, canvases, labels) if self.keys.strength < 1 else images
        for value in range(1, 1 + max(len(plan.parts) for plan in plans)):
            rows = [i for i, plan in enumerate(plans) if len(plan.parts) >= value]
            masks = [labels[i] == value for i in rows]
            windows = [window_around(mask, self.keys) for mask in masks]
            clusters = [plans[i].parts[value - 1].cluster for i in rows]
            key = plans[rows[0]]
            name = int.from_bytes(key.defect.encode()[:6], "big")
            generator = seeded_generator(self._device, self.seed, name, key.number, value, _PAINT)
            made = self._painted(
                [images[i] for i in rows],
                [pasted[i] for i in rows],
                masks,
                windows,
                clusters,
                generator,
            )
            for i, mask, window, pixels in zip(rows, masks, windows, made, strict=True):
                images[i] = self._composed(images[i], mask, window, pixels)
        return images

    @property
    def _device(self) -> torch.device:
        return next(self.painter.parameters()).device

    @torch.no_grad()
    def _painted(
        self,
        images: list[Picture],
        pasted: list[Picture],
        masks: list[Any],
        windows: list[Window],
        clusters: list[int],
        generator: torch.Generator,
    ) -> list[Picture]:
        """Return the windows' pixels [net, net, 3] after painting."""
        net = self.keys.net
        outlines = np.stack(
            [brought_mask(m[w.slices], net) for m, w in zip(masks, windows, strict=True)]
        )
        mask = torch.from_numpy(outlines)[:, None].to(self._device)
        model = self.painter.model
        latent = inpainted(
            self.painter,
            self._encoded(images, windows),
            mask,
            torch.tensor(clusters, device=self._device),
            steps=self.keys.steps,
            eta=self.keys.eta,
            guidance=self.keys.guidance,
            generator=generator,
            clamp=6.0 if isinstance(model, ScratchDiffusion) else None,
            start=self._encoded(pasted, windows) if self.keys.strength < 1 else None,
            strength=self.keys.strength,
        )
        made = (model.decode(latent).clamp(0, 1) * 255).round().to(torch.uint8)
        return list(made.permute(0, 2, 3, 1).cpu().numpy())

    def _encoded(self, images: list[Picture], windows: list[Window]) -> Tensor:
        net = self.keys.net
        pixels = np.stack([brought(w.of(i), net) for i, w in zip(images, windows, strict=True)])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(self._device) / 255
        return self.painter.model.encode(image)

    def _composed(self, image: Picture, mask: Any, window: Window, pixels: Picture) -> Picture:
        """Return the picture with the window's pixels (composite none, latent or pixel)."""
        found = image.copy()
        inside = brought(pixels, window.side).astype(np.float32)
        if self.keys.composite == "none":
            alpha = np.ones(inside.shape[:2], dtype=np.float32)
        elif self.keys.composite == "latent":
            cell = max(1, round(self.painter.model.factor * window.side / self.keys.net))
            alpha = feathered(mask[window.slices], cell)
            alpha = (alpha > 0).astype(np.float32)
        else:
            alpha = feathered(mask[window.slices], self.keys.feather)
        below = window.of(image).astype(np.float32)
        mixed = below + alpha[..., None] * (inside - below)
        found[window.slices] = np.rint(mixed.clip(0, 255)).astype(np.uint8)
        return found
