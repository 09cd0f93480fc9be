"""Localised concept decomposition: tokens and mask encoder learn from windows (section 4)."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adbench.diffusion.checkpoint import Stateful, restored_step, save_training
from adbench.diffusion.ema import update_average
from adbench.diffusion.latent.autoencoder_stage import fit_autoencoder, measure_scale
from adbench.diffusion.latent.base import LatentDiffusion
from adbench.diffusion.latent.conditioning import Conditioning
from adbench.diffusion.latent.direct import conditioning_of
from adbench.diffusion.latent.inpainting import latent_mask, masked_loss
from adbench.diffusion.latent.scratch import ScratchDiffusion
from adbench.diffusion.schedule import noised
from adbench.errors import UserError
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.chain import all_pictures, planner_of
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.units import RealDefects
from adbench.methods.gaa.windows import WindowSet, windows_of
from adbench.runs.files import read_json, write_beside, write_json
from adbench.runs.stages import StageContext

_STEP, _QUANTILE = 0xC09C, 0.99


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

    def restored(self, stages: Path, real: RealDefects) -> tuple[Conditioning, float]:
        """Return the conditioning of the finished stage ``concept``, and the visible change.

        Raises:
            UserError: the stage is missing, or belongs to another conditioning.
        """
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
        return painter, float(document["visible"])


class _Training:
    """The loop of the stage ``concept``, with its state on disk."""

    def __init__(
        self, painter: Conditioning, windows: WindowSet, concept: Concept, context: StageContext
    ) -> None:
        self.painter, self.windows, self.concept, self.context = painter, windows, concept, context
        self.keys, self.device = concept.keys.concept, concept.device
        self.latents = self._encoded()
        painter.measure(self.latents, windows.masks.to(self.device))
        self.average = copy.deepcopy(painter)
        self.optimizer = torch.optim.AdamW(
            [p for p in painter.parameters() if p.requires_grad],
            lr=self.keys.learning_rate,
            weight_decay=1e-4,
        )
        self.file = context.scratch / "concept.ckpt"
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
            update_average(self.average, self.painter, self.keys.decay, step + 1)
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
        dropped = torch.from_numpy(rng.random(len(rows)) < self.keys.drop).to(self.device)
        told = torch.where(dropped & scratch, self.painter.bank.null, cluster)
        clean = self.latents[rows.to(self.latents.device)]
        loss = self._loss(clean, mask, told, generator)
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
        generator: torch.Generator,
    ) -> Tensor:
        """Return the masked loss (Eq. 3); what lies around the mask is known to the network."""
        model = self.painter.model
        level = torch.randint(
            len(model.schedule), (len(clean),), generator=generator, device=self.device
        )
        noise = torch.randn(clean.shape, generator=generator, device=self.device)
        noisy = noised(model.schedule, clean, level, noise)
        target = self.painter.target(clean, noise, level, mask)
        context = self.painter.context(cluster, mask)
        said = self.painter.output(noisy, level, clean, mask, context)
        error = (said - target).square()
        weight = latent_mask(mask, model.factor, self.keys.mask_resize)
        masked = masked_loss(error, weight, self.keys.norm)
        return (masked + self.keys.background * error.mean((1, 2, 3))).mean()
