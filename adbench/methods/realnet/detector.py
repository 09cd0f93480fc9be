"""Inference: reconstruct, select residuals, discriminate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.maps import working_picture
from adbench.config.typed import from_mapping
from adbench.methods.base import Detector, Prediction
from adbench.methods.memory import built
from adbench.methods.realnet.blocks import Block, BlockFeatures, upsampled
from adbench.methods.realnet.discriminator import Discriminator
from adbench.methods.realnet.reconstruction import reconstruction_network
from adbench.methods.realnet.residuals import ResidualSelection
from adbench.methods.realnet.settings import (
    ReconstructionKeys,
    RrsKeys,
    ScoreKeys,
)


def image_score(probability: Tensor, window: int) -> Tensor:
    """Return [B]: the largest mean over ``window`` x ``window`` pixels of [B, 1, H, W], stride 1.

    The authors' code takes 16; 1 is the plain maximum of the paper's text.
    """
    side = (min(window, probability.shape[-2]), min(window, probability.shape[-1]))
    return F.avg_pool2d(probability, side, stride=1).amax((1, 2, 3))


class RealNetDetector(Detector):
    """Backbone, reconstruction networks, residual selection and discriminator.

    Args:
        backbone: config of the FeatureExtractor, or one that is built.
        image_size: working (height, width).
        blocks: plain values of the ``Block`` of each reconstruction network.
        recon, rrs, score: sections of the model's configuration.
        layers: residual layers of the discriminator.
        project: random projections instead of chosen channels.
        plain: residual selection at full size.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        blocks: Sequence[Mapping[str, Any]],
        recon: Mapping[str, Any] | None = None,
        rrs: Mapping[str, Any] | None = None,
        score: Mapping[str, Any] | None = None,
        layers: int = 2,
        project: bool = False,
        plain: bool = False,
    ) -> None:
        super().__init__()
        extractor: Any = (
            backbone if isinstance(backbone, nn.Module) else FeatureExtractor(**dict(backbone))
        )
        self.backbone = extractor
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.score = from_mapping(ScoreKeys, score or {}, "model.score")
        keys = from_mapping(RrsKeys, rrs or {}, "model.rrs")
        networks = from_mapping(ReconstructionKeys, recon or {}, "model.recon")
        parts = [Block.from_dict(dict(block)) for block in blocks]
        channels = sum(part.channels for part in parts)
        by_max, by_mean = keys.counts(channels)
        self.selected = BlockFeatures(parts, extractor.channels, project)
        self.recon = built(
            lambda: nn.ModuleList(reconstruction_network(p.channels, networks) for p in parts),
            "the reconstruction networks",
            "model.recon.width, model.recon.mult or model.afs.dims",
        )
        self.residuals = ResidualSelection(
            channels, by_max, by_mean, momentum=keys.momentum, stats=keys.stats, plain=plain
        )
        self.stop_grad = keys.stop_grad
        self.discriminator = built(
            lambda: Discriminator(self.residuals.kept, layers),
            "the discriminator",
            "model.discriminator_layers or model.rrs.ratio",
        )
        self.config = {
            "backbone": extractor.config,
            "image_size": list(self.image_size),
            "blocks": [part.as_dict() for part in parts],
            "recon": dict(recon or {}),
            "rrs": dict(rrs or {}),
            "score": dict(score or {}),
            "layers": layers,
            "project": project,
            "plain": plain,
        }

    def features(self, image: Tensor) -> list[Tensor]:
        """Return phi_k, one [B, c_k, h_k, w_k] per block, of images at the working size."""
        with torch.no_grad():
            found: list[Tensor] = self.selected(self.backbone(image))
        return found

    def reconstructed(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return G_k(phi_k), one per block, float32."""
        return [net(phi).float() for net, phi in zip(self.recon, features, strict=True)]

    def logits(self, features: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
        """Return [B, 2, H, W] at the working size from features and their reconstructions."""
        # Sums of squares and the order of channels need float32 also under autocast.
        with torch.autocast(features[0].device.type, enabled=False):
            errors = [
                (phi.float() - g.float()).square() for phi, g in zip(features, made, strict=True)
            ]
            if self.stop_grad:
                errors = [error.detach() for error in errors]
            chosen = self.residuals(errors)
        logits: Tensor = self.discriminator(chosen, self.image_size)
        return logits.float()

    def forward(self, image: Tensor) -> Prediction:
        logits = self._image_logits(image)
        probability = logits.softmax(1)[:, 1:]
        score = image_score(probability, self.score.window)
        if self.score.map == "logit":  # orders pixels alike, without ties where softmax saturates
            probability = logits[:, 1:] - logits[:, :1]
        return Prediction(score, _resized(probability, image.shape[-2:]))

    def _image_logits(self, image: Tensor) -> Tensor:
        features = self.features(working_picture(image, self.image_size))
        return self.logits(features, self.reconstructed(features))

    def named_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the mean residual of each block, [B, 1, H, W] each."""
        features = self.features(working_picture(image, self.image_size))
        maps = {}
        for number, (phi, g) in enumerate(zip(features, self.reconstructed(features), strict=True)):
            error = (phi - g).square().mean(1, keepdim=True)
            maps[f"block{number + 1}"] = upsampled(error, image.shape[-2:])
        return maps


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear")
