"""The keys of conf/model/realnet.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, ProperShare, Rate, Share, Side, Width, Within
from adbench.errors import UserError

Architecture = Literal["A", "B", "C"]
Weight = Annotated[float, Within(0, 1e6)]
_LEVELS = 8  # halving a map more often leaves nothing of the largest image


@dataclass(frozen=True, slots=True)
class AfsKeys:
    """Feature selection (Eq. 4): channels kept per layer, scored on ``batches`` x ``batch``."""

    mode: Literal["afs", "rdr", "rlpr"] = "afs"
    dims: tuple[Width, ...] | None = None
    batches: Annotated[int, Within(1, 100000)] = 64
    batch: Annotated[int, Within(1, 4096)] = 16
    norm: Literal["batch", "image"] = "batch"


@dataclass(frozen=True, slots=True)
class ReconstructionKeys:
    """One reconstruction network; ``width`` is relative to the block's channels."""

    kind: Literal["unet", "simple"] = "unet"
    width: Annotated[float, Within(0, 4, above=True)] = 0.5
    mult: tuple[Annotated[int, Within(1, 64)], ...] = (1, 2, 4)
    blocks: Annotated[int, Within(1, 32)] = 2
    attention: tuple[Annotated[int, Within(1, 128)], ...] = (2, 4)
    head_channels: Width = 64

    def __post_init__(self) -> None:
        if not 1 <= len(self.mult) <= _LEVELS:
            raise UserError(f"model.recon.mult={list(self.mult)}: 1 to {_LEVELS} levels are needed")
        if len(self.attention) > _LEVELS:
            raise UserError(f"model.recon.attention={list(self.attention)}: at most {_LEVELS}")

    @property
    def halvings(self) -> int:
        """How often the network halves its maps."""
        return len(self.mult) - 1 if self.kind == "unet" else 2


@dataclass(frozen=True, slots=True)
class RrsKeys:
    """Residual selection: ``ratio`` of all channels kept, by maximum, mean or half each."""

    mode: Literal["both", "max", "mean", "none"] = "both"
    ratio: Annotated[float, Within(0, 1, above=True)] = 1 / 3
    momentum: Share = 0.9
    stats: Literal["batch", "running"] = "batch"
    stop_grad: bool = False

    def counts(self, channels: int) -> tuple[int, int]:
        """Return how many of ``channels`` are kept by maximum and by mean."""
        kept = max(1, round(self.ratio * channels))
        half = max(1, round(self.ratio * channels / 2))
        return {"both": (half, half), "max": (kept, 0), "mean": (0, kept), "none": (0, 0)}[
            self.mode
        ]


@dataclass(frozen=True, slots=True)
class LossKeys:
    """Weights of the two losses and the reduction of the reconstruction error."""

    recon: Weight = 1.0
    seg: Weight = 1.0
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.recon == self.seg == 0:
            raise UserError("model.loss.recon and model.loss.seg are both 0: nothing is trained")


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """Side in pixels of the mean whose maximum scores an image; what the map holds."""

    window: Side = 16
    map: Literal["probability", "logit"] = "probability"


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Cached features of normal images: number format and bytes in memory (0: no cache)."""

    dtype: Literal["float32", "float16"] = "float32"
    max_memory: Bytes = 2 << 30


@dataclass(frozen=True, slots=True)
class RealNetKeys:
    """conf/model/realnet.yaml, section ``model``.

    Attributes:
        arch: A, B or C of Fig. S2.
        normal_share: probability that an image of a batch stays normal.
        learning_rate: of Adam.
        discriminator_layers: residual layers of the discriminator.
        recalibrate: settle the statistics that select residuals over all training images.
        channels_last: memory layout of the trained networks.
        as_published: every step as the authors take it, nothing cached: the reference.
    """

    arch: Architecture = "A"
    normal_share: ProperShare = 0.5
    learning_rate: Rate = 1e-4
    discriminator_layers: Annotated[int, Within(0, 32)] = 2
    recalibrate: bool = True
    channels_last: bool = False
    as_published: bool = False
    afs: AfsKeys = AfsKeys()
    recon: ReconstructionKeys = ReconstructionKeys()
    rrs: RrsKeys = RrsKeys()
    loss: LossKeys = LossKeys()
    score: ScoreKeys = ScoreKeys()
    cache: CacheKeys = CacheKeys()
