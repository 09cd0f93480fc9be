"""Inference: reconstruct features, predict the global branch, normalise and average the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adbench.backbones.extractor import FeatureExtractor
from adbench.backbones.maps import working_picture
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.methods.base import Detector, Prediction
from adbench.methods.memory import built
from adbench.methods.ulsad.attention import attention_weights, positions
from adbench.methods.ulsad.autoencoder import GlobalAutoencoder
from adbench.methods.ulsad.features import FeaturePooling
from adbench.methods.ulsad.losses import distance_map
from adbench.methods.ulsad.maps import blurred_upsample, check_sigma, normalised
from adbench.methods.ulsad.reconstruction import ReconstructionNetwork
from adbench.methods.ulsad.settings import (
    AutoencoderKeys,
    FrnKeys,
    LossKeys,
    MapKeys,
)

Source = Literal["features", "autoencoder"]
STRIDE = 8
_ROWS = {"local": 0, "global": 1}


class UlsadDetector(Detector):
    """Backbone, pooling, reconstruction network psi, autoencoder phi, quantiles.

    Args:
        backbone: config of the FeatureExtractor, or one that is built.
        image_size: working (height, width).
        channels: c of the pooled map.
        frn, autoencoder, loss, map: sections of conf/model/ulsad.yaml.

    Raises:
        UserError: the first layer read does not have stride 8.
    """

    quantile: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        image_size: Sequence[int],
        channels: int = 384,
        frn: Mapping[str, Any] | None = None,
        autoencoder: Mapping[str, Any] | None = None,
        loss: Mapping[str, Any] | None = None,
        map: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        extractor: Any = (
            backbone if isinstance(backbone, nn.Module) else FeatureExtractor(**dict(backbone))
        )
        if extractor.strides[0] != STRIDE:
            raise UserError(
                f"model=ulsad compares features at stride {STRIDE}, layer "
                f"{extractor.layers[0]} of "
                f"backbone {extractor.name} has {extractor.strides[0]}; "
                "set backbone.layers=[layer2,layer3]"
            )
        self.backbone = extractor
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.loss = from_mapping(LossKeys, loss or {}, "model.loss")
        self.map = from_mapping(MapKeys, map or {}, "model.map")
        check_sigma(self.map.sigma, self.image_size)
        self.pooling = FeaturePooling(extractor.channels, channels)
        own = from_mapping(FrnKeys, frn or {}, "model.frn")
        self.frn = built(
            lambda: ReconstructionNetwork(channels, own),
            "the reconstruction network",
            "model.channels or model.frn.mid",
        )
        keys = from_mapping(AutoencoderKeys, autoencoder or {}, "model.autoencoder")
        self.autoencoder = (
            built(
                lambda: GlobalAutoencoder(channels, keys),
                "the global autoencoder",
                "model.autoencoder.wide or model.channels",
            )
            if self.loss.uses_autoencoder
            else None
        )
        # Per branch (local, global): q_alpha, q_beta; a branch that is off keeps none.
        self.register_buffer("quantile", torch.full((2, 2), torch.nan))
        self.calibrated = False  # kept in Python: to ask the buffer would wait for the device
        self.register_load_state_dict_post_hook(_note_calibration)
        self.config = {
            "backbone": extractor.config,
            "image_size": list(self.image_size),
            "channels": channels,
            "frn": dict(frn or {}),
            "autoencoder": dict(autoencoder or {}),
            "loss": dict(loss or {}),
            "map": dict(map or {}),
        }

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the maps in use."""
        found = ("local",) if self.loss.local else ()
        return found if self.autoencoder is None else (*found, "global")

    def calibrate(self, quantiles: Mapping[str, tuple[float, float]]) -> None:
        """Set the quantiles of the branches in use (Eq. 9)."""
        for branch in self.branches:
            self.quantile[_ROWS[branch]] = torch.tensor(quantiles[branch])
        self.calibrated = True

    def native_features(self, image: Tensor) -> list[Tensor]:
        """Return the pooled maps of images at the working size, at each layer's own size."""
        with torch.no_grad():
            return self.pooling.native(self.backbone(image))

    def features(self, image: Tensor) -> Tensor:
        """Return U [B, c, h, w], standardised, of images at the working size."""
        found: Tensor = self.pooling(self.native_features(image))
        return found

    def grid_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the raw maps of the branches in use, [B, 1, h, w] each, on the grid.

        The local map compares psi's first half with the features (Eq. 7), the global map its
        second half with phi's output (Eq. 8).
        Where nothing trains psi's second half, the global map compares phi with the features.
        """
        u = self.features(image)
        local, second = self.frn(u) if self.loss.uses_frn else (u, u)
        found = {}
        with torch.autocast(image.device.type, enabled=False):
            if self.loss.local:
                found["local"] = distance_map(local.float(), u.float(), self.loss.lambda_l)
            if self.autoencoder is not None:
                encoded = self.autoencoder(image).float()
                seen = second.float() if self.loss.local_global else u.float()
                found["global"] = distance_map(seen, encoded, self.loss.lambda_g)
        return found

    def raw_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the blurred maps before normalisation, [B, 1, H, W] each, working size."""
        maps = self.grid_maps(image)
        return {n: blurred_upsample(m, self.image_size, self.map.sigma) for n, m in maps.items()}

    def normalised_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return t(M) of each branch, scaled by its quantiles (Eq. 9); the blur commutes with t.

        Raises:
            UserError: no quantiles were ever taken.
        """
        if not self.calibrated:
            raise UserError(
                "this ULSAD detector was never calibrated: its maps have no common scale; finish "
                "its training, which takes the quantiles from held-out normals"
            )
        maps = self.grid_maps(image)
        return {n: normalised(m, *self.quantile[_ROWS[n]]) for n, m in maps.items()}

    def forward(self, image: Tensor) -> Prediction:
        """Return the mean of both maps and its maximum, the image score (Eq. 10)."""
        parts = self.normalised_maps(self._working(image))
        mean = torch.stack(list(parts.values())).mean(0)
        anomaly_map = blurred_upsample(mean, self.image_size, self.map.sigma)
        score = anomaly_map.amax((1, 2, 3))
        return Prediction(score, _resized(anomaly_map, image))

    def named_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Return the normalised maps of both branches, [B, 1, H, W] each."""
        parts = self.normalised_maps(self._working(image))
        return {
            name: _resized(blurred_upsample(part, self.image_size, self.map.sigma), image)
            for name, part in parts.items()
        }

    def attention_map(
        self, image: Tensor, row: int, column: int, *, source: Source = "features"
    ) -> Tensor:
        """Return [B, 1, h, w]: whom a grid position attends to; the weights sum to one.

        Args:
            source: what asks: the ``features`` themselves (self-attention, Eq. 3; Figure 5), or
                the ``autoencoder``'s output at that position (cross-attention, Eq. 4).

        Raises:
            UserError: the detector was trained without a global branch.
        """
        image = self._working(image)
        features = asking = self.features(image)
        if source == "autoencoder":
            if self.autoencoder is None:
                raise UserError("no cross-attention: it was trained with loss.global_term=none")
            asking = self.autoencoder(image)
        query = asking[:, :, row, column].unsqueeze(1)
        weights = attention_weights(query, positions(features))
        return weights.view(len(image), 1, *features.shape[-2:])

    def _working(self, image: Tensor) -> Tensor:
        return working_picture(image, self.image_size)


def _note_calibration(module: nn.Module, keys: Any) -> None:
    """Take note, once a state was loaded, whether it holds quantiles of all branches in use."""
    del keys
    assert isinstance(module, UlsadDetector)
    rows = [_ROWS[branch] for branch in module.branches]
    module.calibrated = bool(torch.isfinite(module.quantile[rows]).all())


def _resized(maps: Tensor, image: Tensor) -> Tensor:
    size = image.shape[-2:]
    return maps if maps.shape[-2:] == size else F.interpolate(maps, size=size, mode="bilinear")
