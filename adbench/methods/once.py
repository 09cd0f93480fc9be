"""Methods whose detector is made in one pass over the normals: nothing is learned step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from adbench.data.batch import Batch
from adbench.methods.base import AnomalyModule


class OnePassModule(AnomalyModule):
    """A method that is complete when ``prepare`` returns.

    ``prepare`` makes the detector from the training normals; it is deterministic, so that a
    resumed run makes the same one. The training loop goes through one epoch that changes nothing,
    so that run folder, history and resuming are those of every method. Subclasses declare
    ``one_pass`` in their requirements.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> None:
        """Return None: no parameter is trained."""

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {"loss": torch.zeros((), device=self.device)}
