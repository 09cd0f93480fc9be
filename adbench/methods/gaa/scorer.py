"""The scorer of generated pairs: a discriminator of normal patch features (SimpleNet's)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.methods.base import seeded_generator
from adbench.methods.gaa.settings import FilterKeys
from adbench.runs.files import write_beside

_PATCHES, _ROWS = 200_000, 1024  # patches held in training, and drawn at each step
_HIDDEN, _SHARE = 256, 0.3
_RATES = (2e-4, 1e-4)  # of discriminator and adaptor, as published
_DECAY = 1e-5


class Scorer(nn.Module):
    """Maps of how unlike normal patches a picture's patches are.

    Args:
        extractor: frozen features; layers are averaged 3 x 3 and joined on the first one's grid.
        keys: noise and margin of its training.
    """

    level: Tensor
    spread: Tensor

    def __init__(self, extractor: FeatureExtractor, keys: FilterKeys) -> None:
        super().__init__()
        self.extractor, self.keys = extractor, keys
        width = sum(extractor.channels)
        self.adaptor = nn.Linear(width, width)
        self.head = nn.Sequential(
            nn.Linear(width, _HIDDEN),
            nn.BatchNorm1d(_HIDDEN),
            nn.LeakyReLU(0.2),
            nn.Linear(_HIDDEN, 1, bias=False),
        )
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """Return [B, h, w, D] of images [B, 3, H, W] in 0..1."""
        maps = [F.avg_pool2d(m.float(), 3, 1, 1) for m in self.extractor(image)]
        size = maps[0].shape[-2:]
        joined = [maps[0]] + [
            F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps[1:]
        ]
        return torch.cat(joined, 1).permute(0, 2, 3, 1)

    def scores(self, features: Tensor) -> Tensor:
        """Return -D [...] of features [..., D]; high where they are not normal."""
        flat = self.head(self.adaptor(features.reshape(-1, features.shape[-1])))
        found: Tensor = -flat.view(features.shape[:-1])
        return found

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Return the map S [B, H, W] (Eq. 7) of images [B, 3, H, W]."""
        found = self.scores(self.features(image))[:, None]
        size = image.shape[-2:]
        return F.interpolate(found, size, mode="bilinear", align_corners=False)[:, 0]

    def fit(self, images: list[Tensor], seed: int) -> float:
        """Train on normal images, given in batches; return the last loss.

        Hinge of normal features against the same with Gaussian noise behind the adaptor.
        """
        device = self.level.device
        generator = seeded_generator("cpu", seed, 0x5C0)
        rows = torch.cat([self.features(image).flatten(0, 2).half().cpu() for image in images])
        rows = rows[torch.randperm(len(rows), generator=generator)[:_PATCHES]]
        # The published 0.015 suits one network's scale; with others a share of their own spread.
        noise = self.keys.noise or _SHARE * float(rows.float().std(0).mean())
        optimizer = torch.optim.Adam(
            [
                {"params": self.head.parameters(), "lr": _RATES[0]},
                {"params": self.adaptor.parameters(), "lr": _RATES[1]},
            ],
            weight_decay=_DECAY,
        )
        self.train()
        loss = torch.zeros(())
        for _ in range(self.keys.steps):
            some = torch.randint(len(rows), (min(_ROWS, len(rows)),), generator=generator)
            good = self.adaptor(rows[some].float().to(device))
            bad = good + noise * torch.randn(good.shape, generator=generator).to(device)
            said = self.head(torch.cat([good, bad])).view(2, -1)
            margin = self.keys.margin
            loss = (margin - said[0]).clamp_min(0).mean() + (margin + said[1]).clamp_min(0).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        self.eval().requires_grad_(False)
        return float(loss.detach())

    def calibrate(self, images: list[Tensor]) -> None:
        """Take mean and deviation of the pixel scores of normal images held out."""
        values = torch.cat([self(image).flatten().cpu() for image in images])
        self.level.fill_(float(values.mean()))
        self.spread.fill_(max(float(values.std()), 1e-6))

    def save(self, path: Path) -> None:
        state = {k: v.cpu() for k, v in self.state_dict().items() if not k.startswith("extractor")}
        with write_beside(path) as temporary:
            save_file(state, temporary)

    def load(self, path: Path) -> None:
        self.load_state_dict(load_file(path), strict=False)
        self.eval().requires_grad_(False)
