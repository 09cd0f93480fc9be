"""The keys of conf/model/glass.yaml, their types, ranges and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Bytes, Count, NonNegative, ProperShare, Rate, Width, Within
from adbench.errors import UserError

Radius = Annotated[float, Within(0, 1e6, above=True)]
Hypothesis = Literal["manifold", "hypersphere", "auto", "opposite"]
Aggregation = Literal["code", "paper"]
Score = Literal["grid", "map", "top"]


@dataclass(frozen=True, slots=True)
class GasKeys:
    """Global anomaly synthesis in feature space (Sec. 3.2; values of the released code).

    Attributes:
        noise: add Gaussian noise to normal features.
        sigma: standard deviation of that noise.
        ascent: move the noisy features along the normalised gradient of their loss.
        project: clamp their distance from the base into [r1, r2] (manifold), or from the centre
            into multiples of its radius (hypersphere); without ascent the noise is clamped.
        r1, r2: radii of the manifold clamp.
        steps: number of ascent steps.
        project_every: steps between two projections.
        step_size: length of one ascent step in feature space.
        as_published: autograd over both halves at every step, nothing cached: the reference.
        bf16: direction of the ascent from bfloat16 matrix products (not exact).
    """

    noise: bool = True
    sigma: Annotated[float, Within(0, 1e6)] = 0.015
    ascent: bool = True
    project: bool = True
    r1: Radius = 0.5
    r2: Radius = 1.0
    steps: Annotated[int, Within(0, 10000)] = 20
    project_every: Count = 5
    step_size: Annotated[float, Within(0, 1e6)] = 0.001
    as_published: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.r1 > self.r2:
            raise UserError(f"model.gas: r1 <= r2 does not hold for {self.r1}, {self.r2}")

    @property
    def active(self) -> bool:
        """Whether there are GAS features at all."""
        return self.noise or self.ascent

    @property
    def moves(self) -> int:
        """Number of ascent steps taken."""
        return self.steps if self.ascent else 0

    @property
    def scale(self) -> float:
        """Standard deviation of the noise, 0 without noise."""
        return self.sigma if self.noise else 0.0

    @property
    def projects_noise(self) -> bool:
        """Whether the noise itself is clamped, since no ascent step leads to a projection."""
        return self.project and self.moves == 0

    def projects_after(self, step: int) -> bool:
        """Whether a projection follows ascent step ``step`` (0 is the first)."""
        return self.project and (step + 1) % self.project_every == 0


@dataclass(frozen=True, slots=True)
class LossKeys:
    """Loss of the local anomalies (Sec. 3.4, Table S3).

    Attributes:
        las: ``focal`` or ``bce``.
        gamma: exponent of the focal loss.
        label_smoothing: of the focal loss.
        ohem: share of the easiest rows left out; 0 keeps all.
        las_weight: of this loss beside those of the normal and the global rows (1 in the paper).
    """

    las: Literal["focal", "bce"] = "focal"
    gamma: Annotated[float, Within(0, 100)] = 2.0
    label_smoothing: Annotated[float, Within(0, 0.5, below=True)] = 1e-5
    ohem: ProperShare = 0.5
    las_weight: Annotated[float, Within(0, 1e6, above=True)] = 1.0


@dataclass(frozen=True, slots=True)
class OptimiserKeys:
    """Adam on the adaptor, AdamW (released code) or Adam (text) on the discriminator.

    Attributes:
        adaptor_lr, adaptor_l2: Adam's learning rate and its L2 term.
        discriminator: the discriminator's optimiser.
        discriminator_lr, discriminator_decay: its learning rate; decoupled decay, or L2 term.
        schedule: ``constant``, or ``cosine``: both rates fall to zero over the budget (ours).
    """

    adaptor_lr: Rate = 1e-4
    adaptor_l2: NonNegative = 1e-5
    discriminator: Literal["adamw", "adam"] = "adamw"
    discriminator_lr: Rate = 2e-4
    discriminator_decay: NonNegative = 0.01
    schedule: Literal["constant", "cosine"] = "constant"

    def factor(self, progress: float) -> float:
        """Return what rates are multiplied by where ``progress`` (0..1) of the budget is spent."""
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, slots=True)
class BankKeys:
    """Distance to kept normal features beside the discriminator (ours).

    Attributes:
        size: whitened features kept, a coreset of the normals; 0: the discriminator alone.
        share: of the discriminator's map beside the distance, both on the scale of the normals.
        prior: normal images at which that share is a quarter: it is multiplied by
            (n / (n + prior)) squared for n of them; 0: the whole share for any number.
        coarse: side of a smaller picture that is searched in a bank of its own, as a share of the
            working size; both distance maps are added. 0: none.
    """

    size: Annotated[int, Within(0, 1 << 20)] = 0
    share: NonNegative = 0.3
    prior: NonNegative = 25.0
    coarse: Annotated[float, Within(0, 0.95)] = 0.0

    def coarse_size(self, image_size: tuple[int, int]) -> tuple[int, int] | None:
        """Return (height, width) of the smaller picture, multiples of 32; None: there is none."""
        if not self.size or not self.coarse:
            return None
        height, width = (max(round(side * self.coarse / 32), 1) * 32 for side in image_size)
        return height, width


@dataclass(frozen=True, slots=True)
class GlassKeys:
    """conf/model/glass.yaml, section ``model``.

    Attributes:
        hypothesis: manifold | hypersphere | auto | opposite (to auto).
        las: train on local anomalies.
        aggregation, patch, embed: local averaging of the backbone's maps.
        adaptor: train a linear map of the features.
        hidden: width of the discriminator's hidden layer.
        centre: position | scalar | code.
        bn_stats: code (running statistics move at every pass) | once (once a step) |
            recalibrate (once a step, and a clean pass after training).
        sigma: of the map's Gaussian, pixels at the working size.
        score: grid (largest probability) | map (largest of the smoothed map) | top (mean of the
            largest hundredth of the grid).
        unit: one (columns of the features as they are) | column (each in units of its deviation
            over the normals: noise, radii and steps are, too).
        rows: features a step, drawn from all normal images; None: all of a batch's images.
        las_copies: local anomalies a normal image, made once and drawn from (with ``rows``).
        max_memory: bytes the cached features may take in memory; beyond, a mapped file.
        weights: a checkpoint of the authors to start from.
    """

    hypothesis: Hypothesis = "auto"
    las: bool = True
    aggregation: Aggregation = "code"
    patch: Annotated[int, Within(1, 64)] = 3
    embed: Width = 1536
    adaptor: bool = True
    hidden: Width = 1024
    centre: Literal["position", "scalar", "code"] = "position"
    bn_stats: Literal["code", "once", "recalibrate"] = "recalibrate"
    sigma: Annotated[float, Within(0, 256)] = 4.0
    score: Score = "grid"
    unit: Literal["one", "column"] = "one"
    rows: Annotated[int, Within(2, 1 << 20)] | None = None
    las_copies: Count = 2
    max_memory: Bytes = 4 << 30
    weights: str | None = None
    bank: BankKeys = BankKeys()
    gas: GasKeys = GasKeys()
    loss: LossKeys = LossKeys()
    optimiser: OptimiserKeys = OptimiserKeys()

    def __post_init__(self) -> None:
        if not (self.las or self.gas.active):
            raise UserError("model.las, model.gas.noise and model.gas.ascent are all false")
        if self.unit == "column" and self.weights is not None:
            raise UserError("model.unit=column: published weights are for features as they are")
        if self.bank.coarse and self.score != "map":
            raise UserError("model.bank.coarse adds maps of two grids: set model.score=map")
        if self.rows is None:
            if self.bank.size:
                raise UserError("model.bank.size keeps drawn features: set model.rows=2048")
            return
        if self.gas.as_published:
            raise UserError("model.rows draws kept features: leave model.gas.as_published=false")
        if self.hypothesis != "manifold":
            raise UserError(
                f"model.rows draws single positions, model.hypothesis={self.hypothesis} may ask "
                "for a centre of each: set model.hypothesis=manifold or model.rows=null"
            )
