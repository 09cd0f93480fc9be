"""The keys of the groups that no method owns, with their types; the door they all pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from adbench.config.targets import record_of
from adbench.config.typed import (
    Bytes,
    Count,
    Number,
    Positive,
    ProperShare,
    Seed,
    Share,
    Side,
    Within,
    checked,
    from_mapping,
    shown,
)
from adbench.errors import UserError


@dataclass(frozen=True, slots=True)
class LightKeys:
    """Section ``train.light``."""

    copies: Annotated[int, Within(0, 1000)] = 0
    brightness: ProperShare = 0.3
    contrast: ProperShare = 0.2


@dataclass(frozen=True, slots=True)
class BackgroundKeys:
    """Section ``dataset.corrupt_background``."""

    jitter: ProperShare = 0.0
    noise: ProperShare = 0.0


@dataclass(frozen=True, slots=True)
class TrainKeys:
    """conf/train.yaml, section ``train``."""

    epochs: Count | None = None
    steps: Count | None = None
    minutes: Positive | None = None
    batch_size: Annotated[int, Within(1, 4096)] = 8
    epoch_images: Count | None = None
    select: Literal["last", "validation", "test"] = "last"
    select_by: Literal["image", "pixel", "both"] = "both"
    validate_every: Number = 0
    oracle_every: Number = 0
    checkpoint_minutes: Annotated[float, Within(0, 1e6)] = 0.5
    max_memory: Bytes = 4 << 30
    refit: bool = False
    light: LightKeys = LightKeys()

    def __post_init__(self) -> None:
        if self.refit and self.select == "test":
            raise UserError("train.refit=true and train.select=test contradict each other")
        if self.epochs is None and self.steps is None and self.minutes is None:
            raise UserError("nothing says when training ends: set train.epochs, steps or minutes")


@dataclass(frozen=True, slots=True)
class MetricKeys:
    """Section ``metrics``."""

    resolution: Literal["original", "working"] = "original"
    limits: tuple[Annotated[float, Within(0, 1, above=True)], ...] = (0.3, 0.05)
    mode: Literal["auto", "exact", "two_pass", "histogram"] = "auto"
    max_memory: Bytes = 4 << 30
    pro_flavour: Literal["glass", "glad", "realnet"] | None = None


@dataclass(frozen=True, slots=True)
class HardwareKeys:
    """Group ``hardware``."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: Annotated[int, Within(-1, 1024)] | Literal["auto"] = 1
    strategy: Literal["auto", "ddp"] = "auto"
    nodes: Annotated[int, Within(1, 1024)] = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "32-true"
    threads: Annotated[int, Within(1, 1024)] = 2
    workers: Annotated[int, Within(0, 256)] = 0
    deterministic: bool = True

    def __post_init__(self) -> None:
        if self.devices == 0:
            raise UserError("hardware.devices=0: at least one device is needed; -1 means all")
        if self.strategy != "ddp" and (self.devices not in (1, "auto") or self.nodes > 1):
            told = f"hardware.nodes={self.nodes}" if self.nodes > 1 else f"devices={self.devices}"
            raise UserError(f"hardware: {told} means several processes: set hardware=ddp")


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Section ``run``."""

    root: str = "outputs"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ThresholdKeys:
    """Section ``threshold``."""

    false_alarm_rate: Annotated[float, Within(0, 1, above=True, below=True)] = 0.01
    folds: Annotated[int, Within(0, 100)] = 0
    calibrate: str | None = None

    def __post_init__(self) -> None:
        if self.folds == 1:
            raise UserError("threshold.folds=1: 0 for held-out images, or at least 2 folds")


@dataclass(frozen=True, slots=True)
class ImageKeys:
    """Section ``images``."""

    save: Number | Literal["all"] = 16


Fit = Literal["squash", "pad", "crop"]


@dataclass(frozen=True, slots=True)
class DatasetKeys:
    """Group ``dataset``."""

    name: str
    layout: str
    root: str | None = None
    folder: str | None = None
    category: str | tuple[str, ...] = "all"
    multiclass: bool = False
    shots: Count | None = None
    image_size: Side | tuple[Side, Side] = 256
    fit: Fit = "squash"
    bits: Annotated[int, Within(8, 16)] | None = None
    limit: Count | None = None
    defects: Literal["third"] | Count | tuple[str, ...] | None = None
    hold_out: ProperShare = 0.1
    corrupt_background: BackgroundKeys = BackgroundKeys()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the working size."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size[0], self.image_size[1]


@dataclass(frozen=True, slots=True)
class BackboneKeys:
    """Group ``backbone``; ``name: null`` means that no network is built."""

    name: str | None = None
    layers: tuple[str | Annotated[int, Within(-1000, 1000)], ...] | None = None
    weights: str | None = None
    exposure: Share | None = None
    padding: Literal["zeros", "reflect"] = "zeros"


@dataclass(frozen=True, slots=True)
class LoggerKeys:
    """Group ``logger``: the keys of all loggers; each file of the group has its own."""

    name: Literal["csv", "tensorboard", "wandb", "mlflow"] = "csv"
    project: str = "adbench"
    offline: bool = True
    experiment: str = "adbench"
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class SpaceKeys:
    """What a search may set a key to: one of ``choices``, or a number from ``low`` to ``high``.

    Attributes:
        step: distance of the numbers; None: any number between.
        log: the logarithm is drawn evenly, not the number.
        integer: whole numbers.
    """

    low: float | None = None
    high: float | None = None
    step: Positive | None = None
    log: bool = False
    integer: bool = False
    choices: tuple[bool | int | float | str | None, ...] | None = None

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or the least and the largest number."""
        if self.choices is not None:
            return self.choices
        kind = int if self.integer else float
        return tuple(kind(end) for end in (self.low, self.high) if end is not None)

    def __post_init__(self) -> None:
        bounded = self.low is not None and self.high is not None
        if (self.choices is None) != bounded or self.choices == ():
            raise UserError("sweep.search: a key of the space has choices, or low and high")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise UserError(f"sweep.search: low={self.low:g} is not below high={self.high:g}")
        if self.log and (self.step is not None or not self.low or self.low <= 0):
            raise UserError("sweep.search: log needs low above 0 and no step")


TEST_OBJECTIVES = ("image_auroc", "pixel_auroc", "aupro_30")
Objective = Literal[
    "validation", "val_image_auroc", "val_pixel_ap", "images_per_second",
    "image_auroc", "pixel_auroc", "aupro_30",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SearchKeys:
    """conf/sweep/optuna.yaml, section ``sweep.search``.

    Attributes:
        spaces: model -> dotted key -> what it may be set to.
        trials: how many are completed, pruned ones among them.
        objectives: what is to be large; several: the Pareto front is looked for. ``validation``
            is the criterion of ``train.select_by``; figures of the test set need protocol=paper.
        startup: trials drawn at random, before which nothing is pruned either.
        prune: stop trials whose validation signal stays below the median of the others'.
        default: the first trial is what the configuration says without the search.
        seed: of the sampler.
    """

    spaces: dict[str, dict[str, SpaceKeys]]
    trials: Count = 20
    objectives: tuple[Objective, ...] = ("validation",)
    startup: Count = 8
    prune: bool = True
    default: bool = True
    seed: Seed = 0

    def __post_init__(self) -> None:
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise UserError("sweep.search.objectives: one, or several different ones")


@dataclass(frozen=True, slots=True)
class SweepKeys:
    """conf/sweep.yaml."""

    rows: dict[str, tuple[str, ...]] | None = None
    search: SearchKeys | None = None
    name: str | None = None
    jobs: Annotated[int, Within(1, 10_000)] | None = None
    threads: Annotated[int, Within(1, 1024)] | None = None
    timeout_minutes: Positive | None = None
    retry_failed: bool = True


@dataclass(frozen=True, slots=True)
class LauncherKeys:
    """Group ``launcher``: where a sweep's cells run. Which keys a launcher has stands in its file.

    Attributes:
        retries: how often a cell is started again whose process or worker was killed.
        devices: GPUs that cells take in turn; none: every cell sees all.
        cpus, gpus: what a cell takes of its node.
        address: of a ray cluster; None: one of this machine.
        executor: of submitit.
        minutes: time limit of a job; ``timeouts`` times it is queued again and goes on.
        notice: seconds before the limit at which a job is told.
        memory_gb: of a job.
        parallel: jobs at a time.
        slurm: further words of sbatch: partition, account, qos, constraint, setup ...
        dry_run: write the sbatch file and end.
    """

    name: Literal["local", "joblib", "submitit", "ray"] = "local"
    retries: Annotated[int, Within(0, 100)] = 2
    devices: tuple[Annotated[int, Within(0, 1023)], ...] = ()
    cpus: Annotated[float, Within(0, 1024)] = 1.0
    gpus: Annotated[float, Within(0, 1024)] = 0.0
    address: str | None = None
    executor: Literal["auto", "slurm", "local"] = "auto"
    minutes: Count = 240
    timeouts: Annotated[int, Within(0, 100)] = 3
    notice: Count = 90
    memory_gb: Positive | None = None
    parallel: Annotated[int, Within(1, 10_000)] = 64
    slurm: dict[str, Any] | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class SweepRoot:
    """What stands at the root of conf/sweep.yaml."""

    sweep: SweepKeys
    launcher: LauncherKeys


@dataclass(frozen=True, slots=True)
class Settings:
    """All of a training run but the groups that build objects (model, synthesis)."""

    dataset: DatasetKeys
    train: TrainKeys
    metrics: MetricKeys
    hardware: HardwareKeys
    run: RunKeys
    threshold: ThresholdKeys
    images: ImageKeys
    backbone: BackboneKeys
    logger: LoggerKeys
    seed: Seed
    protocol: Literal["honest", "paper"]
    plain: bool
    force: bool | str = False
    stage: str | None = None
    until: str | None = None

    def __post_init__(self) -> None:
        if self.protocol == "honest" and self.train.select == "test":
            raise UserError("train.select=test chooses on the test set: it needs protocol=paper")


# what a method's constructor receives from the trainer, and what Hydra keeps for itself
_GIVEN = ("backbone", "synthesis", "diffusion", "image_size", "seed", "datamodule")
_OWN_OF_MODEL = ("_target_", "name", "layers")


def settings(config: Mapping[str, Any]) -> Settings:
    """Return the checked settings of a resolved configuration.

    Every key is checked here, those of model, synthesis and diffusion included, before data is
    read, weights are looked for or torch is imported (but for a third party's method, whose module
    is where its keys are declared). Options of a layout are checked by the layout.

    Raises:
        UserError: a section or key is missing or unknown, or a value has the wrong type or range
            or contradicts another.
    """
    built = ("model", "synthesis", "diffusion")
    own = {key: value for key, value in config.items() if key not in built}
    found = from_mapping(Settings, own, "")
    check_model(config.get("model"))
    check_synthesis(config.get("synthesis"), "synthesis")
    if "diffusion" in config:  # run folders of old lack it
        check_synthesis(config["diffusion"], "diffusion")
    return found


def check_model(section: Any) -> None:
    """Raise UserError where a key of the model's section is not what its record declares."""
    values = _targeted(section, "model")
    kind = record_of(values["_target_"])
    own = {key: value for key, value in values.items() if key not in _OWN_OF_MODEL}
    from_mapping(ModelHead, {k: v for k, v in values.items() if k in _OWN_OF_MODEL}, "model")
    _checked_record(kind, own, "model")


@dataclass(frozen=True, slots=True)
class ModelHead:
    """What every method's yaml has beside its own keys."""

    _target_: str
    name: str
    layers: tuple[str | Annotated[int, Within(-1000, 1000)], ...] | None = None


def check_synthesis(section: Any, where: str) -> None:
    """Raise UserError where a key of such a section (or ``diffusion``) is not as declared."""
    if isinstance(section, Mapping) and section.get("_target_") is None:
        from_mapping(_NoSynthesis, section, where)
        return
    values = _targeted(section, where)
    own = {key: value for key, value in values.items() if key not in ("_target_", "name")}
    _checked_record(record_of(values["_target_"]), own, where)


@dataclass(frozen=True, slots=True)
class _NoSynthesis:
    name: str | None = None
    _target_: None = None


def _targeted(section: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(section, Mapping) or not isinstance(section.get("_target_"), str):
        raise UserError(f"{where}={shown(section)}: a {where} of the group is expected; see --help")
    return section


def _checked_record(kind: Any, own: Mapping[str, Any], where: str) -> None:
    values = checked(kind, own, where, skip=_GIVEN)
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        kind(**values)  # contradictions between keys
