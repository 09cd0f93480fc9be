"""The sections of conf/model/realnet.yaml as frozen records that refuse unknown keys."""

from __future__ import annotations

from dataclasses import dataclass

from adbench.errors import UserError
from adbench.methods.keys import chosen

ARCHITECTURES = ("A", "B", "C")


@dataclass(frozen=True, slots=True)
class AfsKeys:
    """Feature selection (Eq. 4): channels kept per layer, scored on ``batches`` x ``batch``."""

    mode: str = "afs"
    dims: tuple[int, ...] | None = None
    batches: int = 64
    batch: int = 16
    norm: str = "batch"

    def __post_init__(self) -> None:
        chosen(self.mode, ("afs", "rdr", "rlpr"), "afs.mode")
        chosen(self.norm, ("batch", "image"), "afs.norm")
        if self.batches < 1 or self.batch < 1:
            raise UserError("model.afs.batches and model.afs.batch must be at least 1")


@dataclass(frozen=True, slots=True)
class ReconstructionKeys:
    """One reconstruction network; ``width`` is relative to the block's channels."""

    kind: str = "unet"
    width: float = 0.5
    mult: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (2, 4)
    head_channels: int = 64

    def __post_init__(self) -> None:
        chosen(self.kind, ("unet", "simple"), "recon.kind")
        if not 0 < self.width <= 4 or self.blocks < 1 or not self.mult:
            raise UserError("model.recon: width in (0, 4], blocks >= 1 and a mult are needed")

    @property
    def halvings(self) -> int:
        """How often the network halves its maps."""
        return len(self.mult) - 1 if self.kind == "unet" else 2


@dataclass(frozen=True, slots=True)
class RrsKeys:
    """Residual selection: ``ratio`` of all channels kept, by maximum, mean or half each."""

    mode: str = "both"
    ratio: float = 1 / 3
    momentum: float = 0.9
    stats: str = "batch"
    stop_grad: bool = False

    def __post_init__(self) -> None:
        chosen(self.mode, ("both", "max", "mean", "none"), "rrs.mode")
        chosen(self.stats, ("batch", "running"), "rrs.stats")
        if not 0 < self.ratio <= 1:
            raise UserError(f"model.rrs.ratio={self.ratio}: a share in (0, 1] is expected")

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

    recon: float = 1.0
    seg: float = 1.0
    reduction: str = "mean"

    def __post_init__(self) -> None:
        chosen(self.reduction, ("mean", "sum"), "loss.reduction")


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """Side in pixels of the mean whose maximum scores an image; what the map holds."""

    window: int = 16
    map: str = "probability"

    def __post_init__(self) -> None:
        chosen(self.map, ("probability", "logit"), "score.map")
        if self.window < 1:
            raise UserError(f"model.score.window={self.window}: at least 1 pixel")


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Cached features of normal images: number format and bytes allowed (0: no cache)."""

    dtype: str = "float32"
    max_memory: int = 2 << 30

    def __post_init__(self) -> None:
        chosen(self.dtype, ("float32", "float16"), "cache.dtype")
