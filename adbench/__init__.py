"""adbench: industrial anomaly detection from the command line.

The public interface of Python, complete; everything else may change without notice:

    detector = adbench.load_detector(folder)      # a trained detector, without Hydra or Lightning
    folders = adbench.train("model=patchcore", "dataset=demo")
    figures = adbench.evaluate(folders[0])
    adbench.metrics.image_metrics(scores, labels)
    adbench.synthesizer("draem")(image, generator=generator)

and the contracts that a method or a synthesizer of one's own implements: ``Detector``,
``Prediction``, ``AnomalyModule``, ``Requirements``, ``Synthesizer``, ``Synthetic``; ``UserError``
is what is raised where a request cannot be carried out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from adbench import _torchvision

_torchvision.install()

__version__ = "0.1.0"

# name -> module it comes from. `import adbench` stays free of torch: the command line must answer
# at once.
_PUBLIC = {
    "AnomalyModule": "adbench.methods.base",
    "Detector": "adbench.methods.base",
    "Prediction": "adbench.methods.base",
    "Requirements": "adbench.methods.base",
    "Synthesizer": "adbench.synthesis.base",
    "Synthetic": "adbench.synthesis.base",
    "UserError": "adbench.errors",
    "evaluate": "adbench.interface",
    "load_detector": "adbench.methods.base",
    "synthesizer": "adbench.interface",
    "train": "adbench.interface",
}
__all__ = [  # noqa: RUF022  (functions before contracts, as in the text above)
    "__version__",
    "load_detector",
    "train",
    "evaluate",
    "metrics",
    "synthesizer",
    "AnomalyModule",
    "Detector",
    "Prediction",
    "Requirements",
    "Synthesizer",
    "Synthetic",
    "UserError",
]

if TYPE_CHECKING:
    from adbench import metrics
    from adbench.errors import UserError
    from adbench.interface import evaluate, synthesizer, train
    from adbench.methods.base import (
        AnomalyModule,
        Detector,
        Prediction,
        Requirements,
        load_detector,
    )
    from adbench.synthesis.base import Synthesizer, Synthetic


def __getattr__(name: str) -> Any:
    if name == "metrics":
        return importlib.import_module("adbench.metrics")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'adbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
