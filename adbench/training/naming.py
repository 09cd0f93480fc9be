"""How well a detector that names defects does: accuracy and confusion on the test defects."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from adbench.data.datamodule import DataModule
from adbench.data.sample import ANOMALOUS
from adbench.methods.base import Detector


@torch.no_grad()
def type_figures(
    detector: Detector, datamodule: DataModule, device: torch.device
) -> dict[str, Any] | None:
    """Return accuracy and confusion over defective test pictures of types the detector knows.

    None where the detector names no types. Rows of the confusion matrix are the true types,
    columns what was said, both in the order of ``names``.
    """
    names = list(getattr(detector, "type_names", []) or [])
    score = getattr(detector, "type_scores", None)
    if len(names) < 2 or score is None:
        return None
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    others = 0
    for batch in datamodule.test_batches():
        rows = [i for i, label in enumerate(batch.label.tolist()) if label == ANOMALOUS]
        others += sum(batch.defect[i] not in names for i in rows)
        rows = [i for i in rows if batch.defect[i] in names]
        said = score(batch.image[rows].to(device)) if rows else None
        if said is None:
            continue
        for i, found in zip(rows, said.argmax(1).tolist(), strict=True):
            confusion[names.index(batch.defect[i]), found] += 1
    total = int(confusion.sum())
    return {
        "names": names,
        "accuracy": float(np.trace(confusion)) / total if total else None,
        "images": total,
        "of_other_types": others,
        "confusion": confusion.tolist(),
    }
