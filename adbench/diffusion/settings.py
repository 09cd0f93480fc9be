"""The keys of SDAS that its method, other methods' stages and its synthesizer share.

Nothing here imports torch, so that a wrong request is refused at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal

from adbench.config.typed import Count, Positive, ProperShare, Rate, Within, checked, from_mapping
from adbench.errors import UserError

Form = Literal["ancestral", "ddim"]
Variance = Literal["learned", "beta", "posterior"]
_LEVELS = 8  # each halves the side
_LARGEST = 2e9  # parameters; the published network has 5.5e8


@dataclass(frozen=True, slots=True)
class AdmShape:
    """Size of an ADM network.

    Attributes:
        width: channels of the finest level, a multiple of 32.
        multipliers: channels of each level in units of ``width``; every level halves the side.
        blocks: residual blocks a level.
        attention: downsampling factors (powers of two) at which blocks have attention.
        head: channels of an attention head.
        dropout: inside residual blocks.

    Raises:
        UserError: channels that groups or heads do not divide, or an absurdly large network.
    """

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head: int
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % 32:
            raise UserError(f"network.width={self.width}: a multiple of 32 is expected (groups)")
        if not 1 <= len(self.multipliers) <= _LEVELS:
            raise UserError(
                f"network.multipliers={list(self.multipliers)}: 1 to {_LEVELS} levels are possible"
            )
        for level, multiplier in enumerate(self.multipliers):
            if self.attends(level) and self.width * multiplier % self.head:
                raise UserError(
                    f"network.head={self.head} does not divide the {self.width * multiplier} "
                    f"channels at downsampling {2**level}"
                )
        if self.width * self.multipliers[-1] % self.head:
            raise UserError(f"network.head={self.head} does not divide the middle's channels")
        if self.parameters > _LARGEST:
            raise UserError(
                f"network.width={self.width}, multipliers={list(self.multipliers)} and "
                f"blocks={self.blocks} make about {self.parameters / 1e9:.1f}e9 parameters; "
                f"at most {_LARGEST / 1e9:g}e9 are possible"
            )

    def attends(self, level: int) -> bool:
        """Whether blocks of a level (0 is the finest) have attention."""
        return 2**level in self.attention

    @property
    def factor(self) -> int:
        """Image sides must be multiples of this."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def parameters(self) -> float:
        """Roughly how many weights there are (within a fifth): those of 3 x 3 convolutions."""
        channels = [self.width * multiplier for multiplier in self.multipliers]
        # a block has two convolutions of C x C; on the way up the first one reads 2 C
        per = 18 * (self.blocks + 1) + 27 * (self.blocks + 1) + 18
        time = 8 * self.width * (2 * self.blocks + 3)
        return float(sum(per * c * c + time * c for c in channels) + 36 * channels[-1] ** 2)


PRESETS = {
    # 256 px, of the published weights: 553 M parameters, 1120 GMAC a forward
    "paper": AdmShape(256, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64),
    # ours: the same levels at half the width, for 128 px on one GPU
    "small": AdmShape(128, (1, 1, 2, 2, 4, 4), 2, (8, 16, 32), 64),
    # ours: 128 px on few cores
    "mini": AdmShape(32, (1, 1, 2, 2, 4), 1, (16,), 32),
    # ours: 64 px on two cores
    "tiny": AdmShape(32, (1, 1, 2, 4), 1, (8,), 32),
}


@dataclass(frozen=True, slots=True)
class NetworkKeys:
    """A preset of the ADM network and what differs from it; null takes the preset's.

    Attributes are those of ``AdmShape``, which refuses what does not go together: see ``shape``.
    """

    preset: Literal["paper", "small", "mini", "tiny"] = "tiny"
    width: Annotated[int, Within(32, 2048)] | None = None
    multipliers: tuple[Annotated[int, Within(1, 16)], ...] | None = None
    blocks: Annotated[int, Within(1, 16)] | None = None
    attention: tuple[Annotated[int, Within(1, 4096)], ...] | None = None
    head: Annotated[int, Within(1, 4096)] | None = None
    dropout: ProperShare | None = None

    def given(self) -> dict[str, Any]:
        """Return the keys that are not null, as ``adm_shape`` takes them."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @property
    def shape(self) -> AdmShape:
        """The network's size.

        Raises:
            UserError: the keys contradict each other.
        """
        own = {key: value for key, value in self.given().items() if key != "preset"}
        return replace(PRESETS[self.preset], **own)


def adm_shape(keys: Mapping[str, Any]) -> AdmShape:
    """Return the shape that ``keys`` describe: a ``preset`` and what differs from it (not null).

    Raises:
        UserError: an unknown preset or key, or a value out of range.
    """
    given = {name: value for name, value in keys.items() if value is not None}
    return from_mapping(NetworkKeys, given, "network").shape


@dataclass(frozen=True)
class FitKeys:
    """How an SDAS model is trained inside another method's run.

    Attributes:
        network: keys of the ADM shape.
        classifier: keys of the classifier's shape; None trains none.
        size: side of its square images in pixels.
        steps: optimiser steps.
        batch_size: images a step.
        learning_rate: of Adam.
        decay: of the weights' moving average.
        gamma: weight of the variational bound.
        clip: largest norm of a gradient.
        weights: checkpoint in OpenAI's format to start from.
        save_every: steps between checkpoints.
    """

    network: NetworkKeys = NetworkKeys()
    classifier: NetworkKeys | None = None
    size: Annotated[int, Within(8, 1024)] = 64
    steps: Count = 4000
    batch_size: Annotated[int, Within(1, 4096)] = 16
    learning_rate: Rate = 3e-4
    decay: ProperShare = 0.999
    gamma: Annotated[float, Within(0, 1000)] = 0.001
    clip: Positive = 1.0
    weights: str | None = None
    save_every: Count = 500

    def __post_init__(self) -> None:
        for name in ("network", "classifier"):
            value = getattr(self, name)
            if isinstance(value, Mapping):  # made by hand
                object.__setattr__(self, name, from_mapping(NetworkKeys, value, name))
            if getattr(self, name) is not None:
                self._check_network(name)

    def _check_network(self, name: str) -> None:
        try:
            factor = getattr(self, name).shape.factor
        except UserError as error:
            typed = str(error).replace("network.", f"synthesis.fit.{name}.", 1)
            raise UserError(typed) from error
        if self.size % factor:
            raise UserError(
                f"synthesis.fit.size={self.size}: its {name} needs a multiple of {factor}"
            )

    @property
    def document(self) -> dict[str, Any]:
        """The keys as plain values, those of the networks that are null left out."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["network"] = self.network.given()
        plain["classifier"] = None if self.classifier is None else self.classifier.given()
        return plain


@dataclass(frozen=True)
class PoolKeys:
    """How a pool is drawn.

    Attributes:
        n: images a category.
        strength: s of every image, or (low, high) of its uniform draw per image.
        steps: reverse steps.
        form: ``ancestral`` or ``ddim``.
        variance: which Sigma perturbs the DDIM form: ``learned``, ``beta`` or ``posterior``.
        guidance_scale: pull of the classifier; 0 goes without.
        batch_size: images drawn at once; does not change what is drawn.
    """

    n: Annotated[int, Within(1, 10**6)] = 1000
    strength: (
        Annotated[float, Within(0, 10)]
        | tuple[Annotated[float, Within(0, 10)], Annotated[float, Within(0, 10)]]
    ) = (0.1, 0.2)
    steps: Annotated[int, Within(2, 1000)] = 20
    form: Form = "ancestral"
    variance: Variance = "learned"
    guidance_scale: Annotated[float, Within(0, 1000)] = 0.0
    batch_size: Annotated[int, Within(1, 4096)] = 16

    def __post_init__(self) -> None:
        own = {item.name: getattr(self, item.name) for item in fields(PoolKeys)}
        checked(PoolKeys, own, "synthesis")  # a record made by hand is held to the same ranges
        low, high = self.bounds
        if low > high:
            raise UserError(f"synthesis.strength=[{low:g},{high:g}]: low exceeds high")

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high) of s."""
        if isinstance(self.strength, int | float):
            return float(self.strength), float(self.strength)
        return float(self.strength[0]), float(self.strength[1])
