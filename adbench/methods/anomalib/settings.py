"""The keys of conf/model/anomalib/*.yaml, their types, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal[
    "patchcore",
    "padim",
    "stfpm",
    "supersimplenet",
    "reverse_distillation",
    "cflow",
    "fastflow",
    "draem",
    "dinomaly",
    "inp_former",
    "efficient_ad",
    "dsr",
    "csflow",
    "cfa",
    "winclip",
]


@dataclass(frozen=True, slots=True)
class AnomalibKeys:
    """conf/model/anomalib/NAME.yaml, section ``model``.

    Attributes:
        method: which of anomalib's models.
        options: keyword arguments of anomalib's own class, other than backbone and layers.
    """

    method: Method = "patchcore"
    options: dict[str, Any] = field(default_factory=dict)
