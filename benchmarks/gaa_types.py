"""Which colour statistics tell a pasted defect's own cluster: the measure of the type control.

python benchmarks/gaa_types.py RUN CANVASES

RUN: of model=gaa, at least until=regions. CANVASES: folder of normal pictures of its category; of
the first 40 in the order of their names, whatever the regions' canvases were.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from adbench.data.images import read_image
from adbench.methods.gaa.chain import PasteMaker, planner_of
from adbench.methods.gaa.features import colour, own_colour, ring_of
from adbench.methods.gaa.settings import GaaKeys, MaskKeys
from adbench.metrics.generation import kin_share

_EACH, _CANVASES = 40, 40


def whole_colour(image: Any, mask: Any) -> Any:
    """Return mean and deviation of L, a, b in the mask, [6]."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)[mask]
    return np.concatenate([lab.mean(0), lab.std(0)])


def relative_percentiles(image: Any, mask: Any) -> Any:
    """Return five percentiles of L, a, b in the mask less the ring's mean, [15]."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float64)
    inside, outside = lab[mask], lab[ring_of(mask, 7)].mean(0)
    return (np.percentile(inside, [5, 25, 50, 75, 95], axis=0) - outside).T.ravel()


MEASURES = {
    "means and deviations less the ring's": colour,
    "means less the ring's, own deviations": own_colour,
    "means and deviations": whole_colour,
    "percentiles less the ring's mean": relative_percentiles,
}


def main(words: Sequence[str]) -> int:
    """Print a row for each statistic."""
    if len(words) != 2:
        print(__doc__)
        return 2
    stages, folder = Path(words[0]) / "stages", Path(words[1])
    keys = GaaKeys(masks=MaskKeys(combined=0.0))
    count = len(list((stages / "regions" / "labels").glob("*.png")))
    real, planner = planner_of(stages, keys, count, 0, outline=False)
    side = real.images[0].shape[:2]
    files = sorted(path for path in folder.iterdir() if path.is_file())[:_CANVASES]
    canvases = [cv2.resize(read_image(f), side[::-1], interpolation=cv2.INTER_AREA) for f in files]
    paste, made, kinds = PasteMaker(real, keys), [], []
    for defect in real.types:
        for number in range(_EACH):
            plan, labels = planner.plan(defect, number)
            plan = replace(plan, canvas=plan.canvas % len(canvases))
            (image,) = paste([plan], [canvases[plan.canvas]], [labels])
            made.append((image, labels > 0))
            kinds.append(plan.parts[0].cluster)
    known = np.array([unit.cluster for unit in real.units])
    for name, measure in MEASURES.items():
        rows = np.stack([measure(*pair) for pair in made])
        units = np.stack([measure(real.images[u.picture], real.mask_of(u)) for u in real.units])
        rows, units = rows / (units.std(0) + 1e-6), units / (units.std(0) + 1e-6)
        names = np.arange(real.clusters)
        centres = np.stack([units[known == name].mean(0) for name in names])
        left = [
            kin_share(
                units[i : i + 1], known[i : i + 1], np.delete(units, i, 0), np.delete(known, i)
            )
            for i in range(len(units))
        ]
        print(
            f"{name}: pasted, nearest centre {_nearest(rows, centres, kinds):.3f}, "
            f"nearest component {kin_share(rows, np.array(kinds), units, known):.3f}; "
            f"real, nearest centre {_nearest(units, centres, known):.3f}, "
            f"left out {np.mean(left):.3f}"
        )
    return 0


def _nearest(rows: Any, centres: Any, kinds: Any) -> float:
    near = np.linalg.norm(rows[:, None] - centres[None], axis=-1).argmin(1)
    return float((near == np.array(kinds)).mean())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
