"""Keys of ``adbench reproduce`` and ``adbench report``. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from adbench.config.typed import Count, NonNegative, Number, Positive, Seed, Within
from adbench.errors import UserError

Scale = Literal["cpu", "gpu", "paper"]


@dataclass(frozen=True, slots=True)
class ReproduceKeys:
    """conf/reproduce.yaml."""

    paper: str | None = None
    table: str | None = None
    category: str | tuple[str, ...] | None = None
    setting: str | tuple[str, ...] | None = None
    seed: Seed | tuple[Seed, ...] = 0
    scale: Scale = "cpu"
    oracle: Number | None = None
    plan: bool = False
    probe: bool = False
    collect: bool = False
    tolerance: NonNegative | None = None
    against: str | None = None
    save: str | None = None
    archive: str | None = None
    jobs: Annotated[int, Within(1, 1024)] = 1
    timeout_minutes: Positive | None = None

    def __post_init__(self) -> None:
        if self.plan and self.collect:
            raise UserError("plan=true and collect=true: a plan runs nothing, and so collects")

    @property
    def looks(self) -> int:
        """Epochs between looks at the test set for the paper's protocol; 0: none."""
        if self.oracle is not None:
            return self.oracle
        return 1 if self.scale == "cpu" else 5

    @property
    def seeds(self) -> list[int]:
        return [self.seed] if isinstance(self.seed, int) else list(self.seed)


@dataclass(frozen=True, slots=True)
class ReportKeys:
    """conf/report.yaml."""

    runs: str = "outputs"
    out: str | None = None
    format: Literal["html", "md", "csv", "latex", "all"] = "html"
    title: str = "adbench report"
    details: Number = 12
    gallery: Number = 24
    bootstrap: Count = 500
    megabytes: Annotated[float, Within(1, 1000)] = 28.0


def listed(value: str | tuple[str, ...] | None) -> list[str] | None:
    """Return one or several names as a list; None where nothing is asked for."""
    if value is None:
        return None
    return [value] if isinstance(value, str) else list(value)
