"""The keys of conf/model/glass.yaml as frozen records that refuse what they do not know."""

from __future__ import annotations

import math
from dataclasses import dataclass

from adbench.errors import UserError
from adbench.methods.keys import chosen

HYPOTHESES = ("manifold", "hypersphere", "auto", "opposite")
CENTRES = ("position", "scalar", "code")
BN_STATS = ("code", "once", "recalibrate")
SCORES = ("grid", "map", "top")
AGGREGATIONS = ("code", "paper")


@dataclass(frozen=True, slots=True)
class GasKeys:
    """Global anomaly synthesis in feature space (Sec. 3.3; values of the released code).

    Attributes:
        noise: add Gaussian noise to normal features.
        sigma: standard deviation of that noise.
        ascent: move the noisy features along the normalised gradient of their loss.
        project: clamp their distance from the base into [r1, r2] (manifold).
        r1, r2: radii of the manifold clamp.
        steps: number of ascent steps.
        project_every: steps between two projections.
        step_size: length of one ascent step in feature space.
        plain: autograd over both halves at every step, nothing cached: the reference.
        bf16: direction of the ascent from bfloat16 matrix products (not exact).
    """

    noise: bool = True
    sigma: float = 0.015
    ascent: bool = True
    project: bool = True
    r1: float = 0.5
    r2: float = 1.0
    steps: int = 20
    project_every: int = 5
    step_size: float = 0.001
    plain: bool = False
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0 or self.project_every < 1:
            raise UserError("model.gas.steps must be >= 0 and model.gas.project_every >= 1")
        if not 0 < self.r1 <= self.r2:
            raise UserError(f"model.gas: 0 < r1 <= r2 does not hold for {self.r1}, {self.r2}")

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

    def projects_after(self, step: int) -> bool:
        """Whether a projection follows ascent step ``step`` (0 is the first)."""
        return self.project and (step + 1) % self.project_every == 0


@dataclass(frozen=True, slots=True)
class LossKeys:
    """Loss of the local anomalies (Sec. 3.5, Table S3).

    Attributes:
        las: ``focal`` or ``bce``.
        gamma: exponent of the focal loss.
        smoothing: label smoothing of the focal loss.
        ohem: share of the easiest rows left out; 0 keeps all.
        weight: of this loss beside those of the normal and the global rows (1 in the paper).
    """

    las: str = "focal"
    gamma: float = 2.0
    smoothing: float = 1e-5
    ohem: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        chosen(self.las, ("focal", "bce"), "loss.las")
        if not 0 <= self.ohem < 1:
            raise UserError(f"model.loss.ohem={self.ohem}: a share in [0, 1)")
        if not 0 < self.weight < math.inf:
            raise UserError(
                f"model.loss.weight={self.weight} must be positive (off: model.las=false)"
            )


@dataclass(frozen=True, slots=True)
class OptimiserKeys:
    """Adam on the adaptor, AdamW on the discriminator (released code).

    Attributes:
        adaptor_lr, adaptor_l2: Adam's learning rate and its L2 term.
        discriminator_lr, discriminator_decay: AdamW's learning rate and decoupled decay.
        schedule: ``constant``, or ``cosine``: both rates fall to zero over the budget (ours).
    """

    adaptor_lr: float = 1e-4
    adaptor_l2: float = 1e-5
    discriminator_lr: float = 2e-4
    discriminator_decay: float = 0.01
    schedule: str = "constant"

    def __post_init__(self) -> None:
        chosen(self.schedule, ("constant", "cosine"), "optimiser.schedule")

    def factor(self, progress: float) -> float:
        """Return what rates are multiplied by where ``progress`` (0..1) of the budget is spent."""
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * progress))
