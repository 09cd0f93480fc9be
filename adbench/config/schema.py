"""The keys outside the groups' own, with their types, checked before anything runs."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from adbench.errors import UserError, nearest

T = TypeVar("T")


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Return ``kind(**values)`` after checking names and types.

    Raises:
        UserError: an unknown key, or a value of another type than the field's.
    """
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise UserError(f"no key '{key}' in {where}{nearest(str(key), known)}")
        checked[key] = _converted(value, hints[key], f"{where}.{key}")
    return kind(**checked)


def _check_strength(value: float, where: str) -> None:
    if not 0 <= value < 1:
        raise UserError(f"{where}={value}: a number in [0, 1) is expected")


def _converted(value: Any, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _converted_union(value, get_args(hint), where)
    if origin is Literal:
        if value in get_args(hint):
            return value
        known = [str(choice) for choice in get_args(hint)]
        raise UserError(
            f"{where}={value}: choose one of {', '.join(known)}{nearest(str(value), known)}"
        )
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}={value}: a list is expected, e.g. {where}=[0.3]")
        return tuple(_converted(item, get_args(hint)[0], where) for item in value)
    if origin is dict:
        hint = dict
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(cast(type[Any], hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    raise UserError(f"{where}={value}: {hint.__name__} expected, found {type(value).__name__}")


def _converted_union(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    rest = [hint for hint in hints if hint is not type(None)]
    for hint in rest[:-1]:
        try:
            return _converted(value, hint, where)
        except UserError:
            continue
    return _converted(value, rest[-1], where)


@dataclass(frozen=True, slots=True)
class LightKeys:
    """Section ``train.light``."""

    copies: int = 0
    brightness: float = 0.3
    contrast: float = 0.2

    def __post_init__(self) -> None:
        if self.copies < 0:
            raise UserError(f"train.light.copies={self.copies}: zero or more are expected")
        _check_strength(self.brightness, "train.light.brightness")
        _check_strength(self.contrast, "train.light.contrast")


@dataclass(frozen=True, slots=True)
class BackgroundKeys:
    """Section ``dataset.corrupt_background``."""

    jitter: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_strength(self.jitter, "dataset.corrupt_background.jitter")
        _check_strength(self.noise, "dataset.corrupt_background.noise")


@dataclass(frozen=True, slots=True)
class TrainKeys:
    """conf/train.yaml, section ``train``."""

    epochs: int | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 8
    epoch_images: int | None = None
    select: Literal["last", "validation", "test"] = "last"
    validate_every: int = 0
    oracle_every: int = 0
    checkpoint_minutes: float = 0.5
    max_memory: int = 4 << 30
    refit: bool = False
    light: LightKeys = LightKeys()

    def __post_init__(self) -> None:
        if self.refit and self.select == "test":
            raise UserError("train.refit=true and train.select=test contradict each other")
        if self.epochs is None and self.steps is None and self.minutes is None:
            raise UserError("nothing says when training ends: set train.epochs, steps or minutes")
        for name in ("epochs", "steps", "minutes", "batch_size", "epoch_images"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"train.{name}={value}: a positive number is expected")


@dataclass(frozen=True, slots=True)
class MetricKeys:
    """Section ``metrics``."""

    resolution: Literal["original", "working"] = "original"
    limits: tuple[float, ...] = (0.3, 0.05)
    mode: Literal["auto", "exact", "two_pass", "histogram"] = "auto"
    max_memory: int = 4 << 30
    pro_flavour: Literal["glass", "glad", "realnet"] | None = None

    def __post_init__(self) -> None:
        for limit in self.limits:
            if not 0 < limit <= 1:
                raise UserError(f"metrics.limits holds {limit}: false-positive rates lie in (0, 1]")


@dataclass(frozen=True, slots=True)
class HardwareKeys:
    """Group ``hardware``."""

    accelerator: str = "auto"
    devices: int | str = 1
    strategy: str = "auto"
    precision: str = "32-true"
    threads: int = 2
    workers: int = 0
    deterministic: bool = True


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Section ``run``."""

    root: str = "outputs"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ThresholdKeys:
    """Section ``threshold``."""

    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.false_alarm_rate < 1:
            raise UserError(
                f"threshold.false_alarm_rate={self.false_alarm_rate}: must lie in (0, 1)"
            )


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """Section ``images``."""

    save: int | Literal["all"] = 16


@dataclass(frozen=True, slots=True)
class DatasetKeys:
    """Group ``dataset``."""

    name: str
    layout: str
    root: str | None = None
    folder: str | None = None
    category: str | tuple[str, ...] = "all"
    multiclass: bool = False
    shots: int | None = None
    image_size: int | tuple[int, ...] = 256
    limit: int | None = None
    hold_out: float = 0.1
    corrupt_background: BackgroundKeys = BackgroundKeys()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out < 1:
            raise UserError(f"dataset.hold_out={self.hold_out}: a fraction in [0, 1) is expected")
        if isinstance(self.image_size, tuple) and len(self.image_size) != 2:
            raise UserError("dataset.image_size takes one side or [height, width]")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the working size."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size[0], self.image_size[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """All of a training run but the groups that build objects (model, synthesis, backbone)."""

    dataset: DatasetKeys
    train: TrainKeys
    metrics: MetricKeys
    hardware: HardwareKeys
    run: RunKeys
    threshold: ThresholdKeys
    images: ImageKeys
    seed: int
    protocol: str
    plain: bool


def settings(config: Mapping[str, Any]) -> Settings:
    """Return the checked settings of a resolved configuration.

    Raises:
        UserError: a value has the wrong type or contradicts another.
    """
    if config["protocol"] not in ("honest", "paper"):
        raise UserError(f"protocol={config['protocol']}: choose honest or paper")
    if not isinstance(config["seed"], int):
        raise UserError(f"seed={config['seed']}: an integer is expected")
    found = Settings(
        dataset=from_mapping(DatasetKeys, config["dataset"], "dataset"),
        train=from_mapping(TrainKeys, config["train"], "train"),
        metrics=from_mapping(MetricKeys, config["metrics"], "metrics"),
        hardware=from_mapping(HardwareKeys, config["hardware"], "hardware"),
        run=from_mapping(RunKeys, config["run"], "run"),
        threshold=from_mapping(ThresholdKeys, config["threshold"], "threshold"),
        images=from_mapping(ImageKeys, config["images"], "images"),
        seed=config["seed"],
        protocol=config["protocol"],
        plain=bool(config["plain"]),
    )
    if found.protocol == "honest" and found.train.select == "test":
        raise UserError("train.select=test chooses on the test set: it needs protocol=paper")
    return found
