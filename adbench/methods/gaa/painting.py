"""Localised concept decomposition and painting: what a latent diffusion model adds to the chain."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.diffusion.checkpoint import Stateful, restored_step, save_training
from adbench.diffusion.latent.autoencoder_stage import fit_autoencoder, measure_scale
from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.latent.direct import (
    Conditioning,
    check_text_parts,
    conditioning_of,
    inpainted,
    latent_mask,
    masked_loss,
)
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.diffusion.schedule import noised
from adbench.errors import UserError
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.chain import Maker, all_pictures, planner_of
from adbench.methods.gaa.masks import Plan
from adbench.methods.gaa.paste import feathered
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.stages import Stages
from adbench.methods.gaa.units import Picture, RealDefects
from adbench.methods.gaa.windows import (
    Window,
    WindowSet,
    brought,
    brought_mask,
    window_around,
    windows_of,
)
from adbench.runs.files import read_json, write_beside, write_json
from adbench.runs.stages import Stage, StageContext

SCRATCH, TEXT = "direct conditioning, scratch", "concept decomposition, published base"
_STEP, _PAINT, _QUANTILE = 0xC09C, 0xBA15, 0.99


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
    base = SCRATCH if isinstance(diffusion, ScratchDiffusion) else TEXT
    return Stages(
        keys,
        backbone,
        seed,
        device,
        base=base,
        outline=True,
        maker=concept.maker,
        concept=stage,
    )


class Concept:
    """Trains a conditioning and paints with it.

    Args:
        keys: conf/model/gaa.yaml.
        diffusion: autoencoder, schedule and, where published, the frozen network.
        seed: of every draw.
    """

    def __init__(
        self, keys: GaaKeys, diffusion: LatentDiffusion, seed: int, device: torch.device
    ) -> None:
        self.keys, self.diffusion, self.seed, self.device = keys, diffusion, seed, device

    def described(self) -> dict[str, Any]:
        """Return what the trained conditioning depends on."""
        generate = {name: getattr(self.keys.generate, name) for name in ("window", "net")}
        own = {k: v for k, v in self.diffusion.config.items() if k != "classes"}
        return {**asdict(self.keys.concept), **generate, "diffusion": own, "seed": self.seed}

    def _untrained(self, clusters: int) -> Conditioning:
        keys = self.keys.concept
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            made = conditioning_of(
                self.diffusion,
                clusters,
                feature_tokens=keys.feature_tokens,
                position_tokens=keys.position_tokens,
                width=keys.width,
            )
        return made.to(self.device)

    def run(self, context: StageContext) -> None:
        """Fit autoencoder (from scratch only), tokens and mask encoder to windows."""
        data = context.datamodule
        self.diffusion.to(self.device)
        real, planner = planner_of(
            context.stages, self.keys, len(data.train_samples), self.seed, outline=True
        )
        windows = windows_of(
            real,
            all_pictures(data),
            planner,
            self.keys.generate,
            self.keys.concept.windows,
            self.seed,
        )
        self._fit_autoencoder(windows, context)
        self.diffusion.requires_grad_(False)
        painter = self._untrained(real.clusters)
        with torch.enable_grad():
            average = _Training(painter, windows, self, context).run()
        state = {name: value.cpu().contiguous() for name, value in average.state_dict().items()}
        with write_beside(context.folder / "concept.safetensors") as temporary:
            save_file(state, temporary)
        visible = self._visible(windows)
        write_json(context.folder / "concept.json", {"clusters": real.clusters, "visible": visible})

    def _fit_autoencoder(self, windows: WindowSet, context: StageContext) -> None:
        if not isinstance(self.diffusion, ScratchDiffusion):
            return
        stand_in = StageContext(
            context.folder, context.scratch, context.stages, windows, context.say
        )
        fit_autoencoder(self.diffusion, None, None, stand_in, seed=self.seed, device=self.device)
        # The joint deviation: with that of normal windows alone a defect reaches values which the
        # clamp of the clean estimate removes.
        measure_scale(self.diffusion, windows, self.device)  # type: ignore[arg-type]
        state = {
            name: value.detach().cpu().contiguous()
            for name, value in self.diffusion.state_dict().items()
            if not name.startswith("network.")
        }
        save_file(state, context.folder / "autoencoder.safetensors")

    @torch.no_grad()
    def _visible(self, windows: WindowSet) -> float:
        """Return the change, in levels of 256, that encoding and decoding alone makes (99 %)."""
        rows = torch.arange(1, min(len(windows.images), 129), 2)  # windows of normal pictures
        image = windows.train_images(rows).to(self.device)
        made = self.diffusion.decode(self.diffusion.encode(image)).clamp(0, 1)
        change = ((made - image).abs().amax(1) * 255).flatten()
        return round(float(change.sort().values[int(_QUANTILE * (len(change) - 1))]), 3)

    def maker(
        self, stages: Path, real: RealDefects, context: StageContext | None
    ) -> tuple[Maker, float]:
        """Return what paints with the finished stage ``concept``, and the visible change.

        Raises:
            UserError: the stage is missing, or belongs to another conditioning.
        """
        del context
        folder = stages / "concept"
        document = read_json(folder / "concept.json")
        self.diffusion.to(self.device)
        painter = self._untrained(real.clusters)
        try:
            if isinstance(self.diffusion, ScratchDiffusion):
                state = load_file(folder / "autoencoder.safetensors")
                self.diffusion.load_state_dict(state, strict=False)
            painter.load_state_dict(load_file(folder / "concept.safetensors"))
        except (OSError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).split())[:120]
            raise UserError(f"{folder} cannot be read ({told}): force=concept") from error
        painter.eval().requires_grad_(False)
        return PaintMaker(painter, real, self.keys, self.seed), float(document["visible"])


class _Training:
    """The loop of the stage ``concept``, with its state on disk."""

    def __init__(
        self, painter: Conditioning, windows: WindowSet, concept: Concept, context: StageContext
    ) -> None:
        self.painter, self.windows, self.concept, self.context = painter, windows, concept, context
        self.keys, self.device = concept.keys.concept, concept.device
        self.average = copy.deepcopy(painter)
        self.optimizer = torch.optim.AdamW(
            [p for p in painter.parameters() if p.requires_grad],
            lr=self.keys.learning_rate,
            weight_decay=1e-4,
        )
        self.file = context.scratch / "concept.ckpt"
        self.latents = self._encoded()
        normal = windows.clusters == painter.bank.normal
        self.rows = [(~normal).nonzero().squeeze(1), normal.nonzero().squeeze(1)]

    @torch.no_grad()
    def _encoded(self) -> Tensor:
        model = self.painter.model
        return torch.cat(
            [model.encode(b.image.to(self.device)) for b in self.windows.train_batches()]
        )

    def run(self) -> Conditioning:
        """Train; return the moving average."""
        parts: dict[str, Stateful] = {
            "painter": self.painter,
            "average": self.average,
            "optimizer": self.optimizer,
        }
        first, start = restored_step(self.file, parts, self.device), time.perf_counter()
        self.painter.train()
        sums, count = 0.0, 0
        for step in range(first, self.keys.steps):
            warm = min(1.0, (step + 1) / 100)
            fall = 0.525 + 0.475 * math.cos(math.pi * step / self.keys.steps)
            self.optimizer.param_groups[0]["lr"] = self.keys.learning_rate * warm * fall
            sums, count = sums + self._step(step), count + 1
            decay = min(self.keys.decay, (1 + step) / (10 + step))
            _average(self.average, self.painter, decay)
            if (step + 1) % self.keys.save_every == 0:
                save_training(self.file, step + 1, parts)
                left = (time.perf_counter() - start) / (step + 1 - first)
                left *= (self.keys.steps - step - 1) / 60
                self.context.say(
                    f"concept: step {step + 1} of {self.keys.steps}, loss {sums / count:.4f}, "
                    f"{left:.1f} min left"
                )
                sums, count = 0.0, 0
        return self.average.eval()

    def _step(self, step: int) -> float:
        rng = np.random.default_rng([self.concept.seed, step, _STEP])
        generator = seeded_generator(self.device, self.concept.seed, step, _STEP)
        half = self.keys.batch_size // 2
        scratch = isinstance(self.painter.model, ScratchDiffusion)
        # A frozen network knows normal pictures: only one from scratch is shown them.
        counts = (half, self.keys.batch_size - half) if scratch else (self.keys.batch_size, 0)
        rows = torch.cat(
            [r[torch.from_numpy(rng.integers(len(r), size=n))] for r, n in zip(self.rows, counts)]  # noqa: B905
        )
        mask = self.windows.masks[rows].to(self.device)
        cluster = self.windows.clusters[rows].to(self.device)
        normal = cluster == self.painter.bank.normal
        dropped = torch.from_numpy(rng.random(len(rows)) < self.keys.drop).to(self.device)
        told = torch.where(dropped & scratch, self.painter.bank.null, cluster)
        clean = self.latents[rows.to(self.latents.device)]
        loss = self._loss(clean, mask, told, normal, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.painter.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(
        self,
        clean: Tensor,
        mask: Tensor,
        cluster: Tensor,
        normal: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the masked loss of defects and the plain loss of normal windows (Eq. 3)."""
        model = self.painter.model
        level = torch.randint(
            len(model.schedule), (len(clean),), generator=generator, device=self.device
        )
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        noisy = noised(model.schedule, clean, level, noise)
        target = model.target(clean, noise, level)
        context = self.painter.context(cluster, mask)
        said = self.painter.output(noisy, level, clean, mask, context)
        error = (said - target).square()
        weight = latent_mask(mask, model.factor, self.keys.mask_resize)
        masked = masked_loss(error, weight, self.keys.norm)
        whole = error.mean((1, 2, 3))
        own = masked + self.keys.background * whole
        return torch.where(normal, whole, own).mean()


@torch.no_grad()
def _average(average: nn.Module, live: nn.Module, decay: float) -> None:
    for old, new in zip(average.parameters(), live.parameters(), strict=True):
        old.lerp_(new, 1 - decay)


class PaintMaker:
    """Inpaints the plans' defects in windows, one defect of a picture after the other.

    Args:
        painter: trained.
        real: for the clusters.
        keys: window, sampler and composite.
        seed: of the sampler's noise.
    """

    def __init__(self, painter: Conditioning, real: RealDefects, keys: GaaKeys, seed: int) -> None:
        self.painter, self.real, self.keys, self.seed = painter, real, keys.generate, seed

    def __call__(
        self, plans: Sequence[Plan], canvases: Sequence[Picture], labels: Sequence[Picture]
    ) -> list[Picture]:
        images = [canvas.copy() for canvas in canvases]
        for value in range(1, 1 + max(len(plan.parts) for plan in plans)):
            rows = [i for i, plan in enumerate(plans) if len(plan.parts) >= value]
            masks = [labels[i] == value for i in rows]
            windows = [window_around(mask, self.keys) for mask in masks]
            clusters = [plans[i].parts[value - 1].cluster for i in rows]
            key = plans[rows[0]]
            name = int.from_bytes(key.defect.encode()[:6], "big")
            generator = seeded_generator(self._device, self.seed, name, key.number, value, _PAINT)
            made = self._painted([images[i] for i in rows], masks, windows, clusters, generator)
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
        masks: list[Any],
        windows: list[Window],
        clusters: list[int],
        generator: torch.Generator,
    ) -> list[Picture]:
        """Return the windows' pixels [net, net, 3] after painting."""
        net = self.keys.net
        pixels = np.stack([brought(w.of(i), net) for i, w in zip(images, windows, strict=True)])
        outlines = np.stack(
            [brought_mask(m[w.slices], net) for m, w in zip(masks, windows, strict=True)]
        )
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().to(self._device) / 255
        mask = torch.from_numpy(outlines)[:, None].to(self._device)
        model = self.painter.model
        latent = inpainted(
            self.painter,
            model.encode(image),
            mask,
            torch.tensor(clusters, device=self._device),
            steps=self.keys.steps,
            eta=self.keys.eta,
            guidance=self.keys.guidance,
            generator=generator,
            clamp=6.0 if isinstance(model, ScratchDiffusion) else None,
        )
        made = (model.decode(latent).clamp(0, 1) * 255).round().to(torch.uint8)
        return list(made.permute(0, 2, 3, 1).cpu().numpy())

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
