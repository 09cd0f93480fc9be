"""One image of a data set, as it lies on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1


@dataclass(frozen=True, slots=True)
class Sample:
    """One image with its ground truth.

    Attributes:
        image: absolute path of the image file.
        label: 0 normal, 1 anomalous, -1 unknown (private test sets).
        category: the object or texture, e.g. ``bottle``.
        defect: name of the defect folder; ``good`` for normal images.
        split: ``train``, ``val`` or ``test``.
        masks: mask files, their union is the defect; empty where there is none.
        kind: ``structural`` or ``logical`` where the data set tells its defects apart.
        group: what metrics are also reported by besides the defect (light in AD 2).
        scene: images of one scene are never split between folds.
        root: data set root, so that paths can be reported relative to it.
        tags: further columns of a CSV layout.
    """

    image: Path
    label: int
    category: str
    defect: str
    split: str
    masks: tuple[Path, ...] = ()
    kind: str | None = None
    group: str | None = None
    scene: str | None = None
    root: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def relative(self) -> str:
        """Path below the root with forward slashes, the key of order and of reports."""
        if self.root is not None and self.image.is_relative_to(self.root):
            return self.image.relative_to(self.root).as_posix()
        return self.image.as_posix()
