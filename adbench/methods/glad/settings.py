"""The keys of conf/model/glad.yaml as frozen records; importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from adbench.config.typed import (
    Bytes,
    Count,
    NonNegative,
    Number,
    Positive,
    ProperShare,
    Rate,
    Share,
    Within,
)
from adbench.errors import UserError

Level = Annotated[int, Within(1, 999)]
Auto = Literal["auto"]
LEVELS = 1000
_TOKENS = 1 << 18  # tokens whose cosines with 4096 others take 4 GiB


@dataclass(frozen=True, slots=True)
class AtpKeys:
    """Anomaly-oriented training (Eq. 9, 10).

    Attributes:
        enabled: false trains the plain noise loss on normal images.
        sign: ``plus`` leads to the normal image; ``minus`` as printed doubles the defect.
        mix: ``time`` shrinks the defect with the level (code) | ``none`` (paper).
        k_max: largest weight k_t of the defect in the target; None: as it comes.
        damaged: probability that a training image carries a synthetic defect.
        lowest, levels: noise levels lowest..levels-1 are trained on.
    """

    enabled: bool = True
    sign: Literal["plus", "minus"] = "plus"
    mix: Literal["time", "none"] = "time"
    k_max: Positive | None = None
    damaged: Share = 0.5
    lowest: Annotated[int, Within(0, LEVELS - 1)] = 0
    levels: Annotated[int, Within(1, LEVELS)] = LEVELS

    def __post_init__(self) -> None:
        if self.lowest >= self.levels:
            raise UserError(
                f"model.atp.lowest={self.lowest} leaves no level to train on below "
                f"model.atp.levels={self.levels}"
            )


@dataclass(frozen=True, slots=True)
class AdsKeys:
    """Adaptive denoising steps (section 3.3).

    Attributes:
        delta: difference beyond which a step is taken; ``auto`` calibrates it on held-out
            normals: ``margin`` times the ``quantile`` over images of their largest difference.
        top: places whose mean is the difference of two images.
        layer: of the backbone's layers, the one compared.
        restart: n: steps by which the start lies above the chosen one; ``auto`` calibrates it.
        second_pass: a network pass of its own for the noised test image (Eq. 2).
        normalise: false feeds images in -1..1 to the backbone, as the code does.
        search: which steps are evaluated.
        gate: evaluate only where latents differ as much as they do where defects are seen.
    """

    delta: NonNegative | Auto = "auto"
    quantile: Share = 0.95
    margin: Positive = 1.05
    top: Count = 10
    layer: Annotated[int, Within(-64, 63)] = -1
    restart: Annotated[int, Within(0, 999)] | Auto = "auto"
    second_pass: bool = False
    normalise: bool = True
    search: Literal["sequential", "last_first", "bisect"] = "sequential"
    gate: bool = False


@dataclass(frozen=True, slots=True)
class SaffKeys:
    """Spatial-adaptive feature fusion (Eq. 6, 7).

    Attributes:
        mask: ``sigmoid`` of the difference (code: between 0.5 and 0.88) | ``sigmoid_centred`` at
            delta | ``none``: the test image alone goes on from the chosen step.
        sharpness: width of the centred sigmoid relative to delta.
        noise: what the fused estimate is noised with: the network's (code) or the drawn one
            (Eq. 7).
    """

    mask: Literal["sigmoid", "sigmoid_centred", "none"] = "sigmoid"
    sharpness: Positive = 0.1
    noise: Literal["model", "original"] = "model"


@dataclass(frozen=True, slots=True)
class ScoreKeys:
    """From image and reconstruction to map and score.

    Attributes:
        distance: of image and reconstruction: ``cosine`` to the nearest token (paper) |
            ``whitened``: of the residual at each place, in the covariance that residuals of normal
            training images have.
        direction: of cosine distances, ``forward``: test token to the nearest reconstructed one;
            ``sum`` and ``mean`` add the way back, or average both.
        reference: what the reconstruction is compared with: the ``image`` or its ``round_trip``
            through the autoencoder.
        sigma: of the map's Gaussian, in pixels of the working size.
        top: pixels whose mean is the score; ``auto`` calibrates it.
        pixel: weight v of the pixel difference.
        pixel_scale: ``held_out``: a constant of the held-out normals; ``batch``: maxima of the
            batch (code): scores then depend on the batch.
        object: multiply maps by the object: the ``dark`` or ``bright`` side of Otsu's threshold,
            widened (code: for some categories).
        chunk: tokens whose cosines are held at once.
    """

    distance: Literal["cosine", "whitened"] = "cosine"
    direction: Literal["forward", "sum", "mean"] = "forward"
    reference: Literal["image", "round_trip"] = "image"
    sigma: Annotated[float, Within(0, 256)] = 6.0
    top: Count | Auto = "auto"
    pixel: NonNegative = 0.0
    pixel_scale: Literal["held_out", "batch"] = "held_out"
    object: Literal["none", "dark", "bright"] = "none"
    chunk: Annotated[int, Within(16, 16384)] = 1024


@dataclass(frozen=True, slots=True)
class TuningKeys:
    """Fine-tuning of the features that reconstructions are scored by (code: VisA, PCB-Bank).

    Attributes:
        epochs: passes over the training images; 0: none.
        weight: of the distance to the untouched features.
        accumulate: batches to a step.
        start, steps: the level and the passes of the plain reconstructions that are learned from.
    """

    epochs: Annotated[int, Within(0, 1000)] = 0
    learning_rate: Rate = 3e-4
    weight: NonNegative = 0.01
    batch_size: Count = 16
    accumulate: Count = 2
    start: Level = 200
    steps: Annotated[int, Within(1, 999)] = 15

    def __post_init__(self) -> None:
        if self.steps > self.start:
            raise UserError(
                f"model.tuning.steps={self.steps} exceeds model.tuning.start={self.start}: a step "
                "is at least one level"
            )


@dataclass(frozen=True, slots=True)
class OptimiserKeys:
    """AdamW on the network.

    Attributes:
        decay: of the moving average of weights that is used in the end; None: the last weights.
        schedule: ``cosine``: the rate falls to zero over the budget.
        warmup: share of the budget over which the rate rises.
    """

    learning_rate: Rate = 5e-6
    weight_decay: NonNegative = 0.01
    clip: Positive = 1.0
    decay: ProperShare | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: ProperShare = 0.0
    checkpointing: bool = False

    def factor(self, progress: float) -> float:
        """Return what the rate is multiplied by where ``progress`` (0..1) is spent."""
        rising = min(1.0, progress / self.warmup) if self.warmup else 1.0
        if self.schedule == "constant":
            return rising
        return rising * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class LatentKeys:
    """Cached latents of training images and of a bank of damaged ones.

    Attributes:
        bank: damaged latents kept for each image; 0 damages and encodes anew at each step.
        max_memory: bytes; beyond, everything is encoded anew.
    """

    bank: Annotated[int, Within(0, 1000)] = 0
    max_memory: Bytes = 2 << 30


@dataclass(frozen=True, slots=True)
class GladKeys:
    """conf/model/glad.yaml.

    Attributes:
        reconstruct: ``adaptive`` | ``fixed``: from level ``start`` for every image | ``none``:
            the autoencoder's round trip.
        start: T, the level of the first noise; ``auto`` (with ``fixed``) calibrates it on
            held-out normals with synthetic defects.
        stop: t_min, below which an undecided image goes on from itself.
        steps: N, network passes from T to 0.
        end: level at or below which the clean estimate is decoded as it is; 0: the walk is walked
            to its end. A short training leaves grain in the last steps.
        begin: ``first``: noise of the first step's level | ``start``, ``start_minus_1``: of T or
            T - 1, above the first step (code).
        noise: ``image``: keyed by each image's content | ``shared``: one for all.
        precision: of network and autoencoder at inference.
        micro_batch: images reconstructed at once.
    """

    reconstruct: Literal["adaptive", "fixed", "none"] = "adaptive"
    start: Level | Auto = 750
    stop: Annotated[int, Within(2, 999)] = 350
    steps: Annotated[int, Within(1, 999)] = 25
    end: Annotated[int, Within(0, 999)] = 0
    begin: Literal["first", "start", "start_minus_1"] = "first"
    noise: Literal["image", "shared"] = "image"
    precision: Literal["float32", "bfloat16"] = "float32"
    micro_batch: Annotated[int, Within(1, 256)] = 8
    draw: Number = 8
    atp: AtpKeys = field(default_factory=AtpKeys)
    ads: AdsKeys = field(default_factory=AdsKeys)
    saff: SaffKeys = field(default_factory=SaffKeys)
    score: ScoreKeys = field(default_factory=ScoreKeys)
    optimiser: OptimiserKeys = field(default_factory=OptimiserKeys)
    latents: LatentKeys = field(default_factory=LatentKeys)
    tuning: TuningKeys = field(default_factory=TuningKeys)

    def __post_init__(self) -> None:
        if self.micro_batch * self.score.chunk > _TOKENS:
            raise UserError(
                f"model.micro_batch={self.micro_batch} times model.score.chunk={self.score.chunk} "
                f"exceeds {_TOKENS}: the cosines of so many tokens are held at once"
            )
        if self.start == "auto":
            if self.reconstruct == "adaptive":
                raise UserError("model.start=auto goes with model.reconstruct=fixed")
            return
        if self.steps > self.start:
            raise UserError(
                f"model.steps={self.steps} exceeds model.start={self.start}: a step is at least "
                "one level"
            )
        first = 1 + self.start // self.steps * (self.steps - 1)
        if self.reconstruct == "adaptive" and not self.stop <= first:
            raise UserError(
                f"model.stop={self.stop} lies above the first step ({first}) of "
                f"model.start={self.start}, model.steps={self.steps}: nothing would be compared"
            )

    @property
    def needs_composites(self) -> bool:
        """Whether something is chosen on held-out images with synthetic defects."""
        adaptive = self.reconstruct == "adaptive"
        return (
            (adaptive and (self.ads.restart == "auto" or self.ads.gate))
            or (self.reconstruct == "fixed" and self.start == "auto")
            or self.score.top == "auto"
        )

    @property
    def calibrates(self) -> bool:
        """Whether held-out normals settle a constant."""
        adaptive = self.reconstruct == "adaptive"
        return (
            self.needs_composites
            or (adaptive and self.ads.delta == "auto")
            or (self.score.pixel > 0 and self.score.pixel_scale == "held_out")
        )
