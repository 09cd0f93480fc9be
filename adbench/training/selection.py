"""Which state of a training counts: the last, or one picked by a signal named in the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from adbench.config.schema import MetricKeys, Settings
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, is_frozen, seeded_generator
from adbench.metrics import PixelMetrics, image_metrics
from adbench.runs.folder import RunFolder
from adbench.synthesis.base import Synthesizer
from adbench.training.build import build_synthesis
from adbench.training.callbacks import History
from adbench.training.evaluate import evaluate
from adbench.training.seal import Seal

_STREAM = 0x7A11D  # keeps validation composites apart from every training draw


@torch.no_grad()
def validation_signal(
    module: AnomalyModule, datamodule: DataModule, synthesis: Synthesizer
) -> dict[str, float]:
    """Return image AUROC and pixel AP on held-out normals against composites of them.

    The composites depend on the seed alone, so that epochs and runs can be compared. No test
    image is read.
    """
    pixel = PixelMetrics(limits=(0.3,))
    scores: list[float] = []
    labels: list[int] = []
    for number, batch in enumerate(datamodule.val_batches()):
        image = batch.image.to(module.device)
        generator = seeded_generator(module.device, module.seed, _STREAM, number)
        foreground = synthesis.foreground_masks(batch.index.to(module.device), "val")
        made = synthesis(image, foreground=foreground, generator=generator)
        for pictures, masks in ((image, torch.zeros_like(made.mask)), (made.image, made.mask)):
            prediction = module.detector(pictures)
            scores += prediction.score.float().cpu().tolist()
            labels += masks.flatten(1).any(1).long().cpu().tolist()
            for row in range(len(batch)):
                pixel.update(
                    prediction.anomaly_map[row, 0].float().cpu().numpy(),
                    masks[row, 0].cpu().numpy(),
                    group="composite",
                    name=batch.path[row],
                )
    image_result = image_metrics(np.array(scores), np.array(labels))
    values = {"val_image_auroc": image_result["auroc"], "val_pixel_ap": pixel.compute()["ap"]}
    return {name: float("nan") if value is None else value for name, value in values.items()}


def selections(
    datamodule: DataModule,
    config: Mapping[str, Any],
    keys: Settings,
    folder: RunFolder,
    history: History,
    seal: Seal,
) -> list[Selection]:
    """Return the evaluations that a configuration asks for during training."""
    every, chosen = keys.train.validate_every, keys.train.select
    found = []
    if every or chosen == "validation":
        held_out = datamodule.without_test()
        synthesis = _validation_synthesis(config, folder, held_out)
        found.append(
            Selection(
                "validation",
                every or 1,
                lambda owner: validation_signal(owner, held_out, synthesis),
                lambda figures: criterion(figures, _VALIDATION, keys.train.select_by),
                history,
                select=chosen == "validation",
            )
        )
    every = keys.train.oracle_every
    if every or chosen == "test":

        def look(owner: AnomalyModule) -> dict[str, Any]:
            with seal.opened():
                return test_figures(owner, datamodule, keys.metrics)

        found.append(
            Selection(
                "oracle",
                every or 1,
                look,
                lambda figures: criterion(figures, _TEST, keys.train.select_by),
                history,
                select=chosen == "test",
            )
        )
    return found


_VALIDATION = {"image": "val_image_auroc", "pixel": "val_pixel_ap"}
_TEST = {"image": "image_auroc", "pixel": "pixel_auroc"}


def criterion(figures: Mapping[str, float], names: Mapping[str, str], by: str) -> float:
    """Return what is to be largest: one of two figures, or their sum."""
    wanted = names.values() if by == "both" else [names[by]]
    return sum(figures[name] for name in wanted)


def _validation_synthesis(
    config: Mapping[str, Any], folder: RunFolder, held_out: DataModule
) -> Synthesizer:
    synthesis = build_synthesis(config["synthesis"])
    if synthesis is None:
        raise UserError("validation needs synthetic anomalies: set synthesis=las")
    synthesis.stage_folder = folder / "stages"
    synthesis.prepare(held_out)
    return synthesis


def test_figures(
    module: AnomalyModule, datamodule: DataModule, keys: MetricKeys
) -> dict[str, float]:
    """Return what the test set says of the present state: protocol=paper, or the oracle."""
    found = evaluate(module.detector, datamodule, keys, module.device).metrics
    image, pixel = found["image"]["auroc"], found["pixel"]["auroc"]
    return {"image_auroc": image or 0.0, "pixel_auroc": pixel or 0.0}


class Selection(Callback):
    """Evaluates every few epochs and, where asked, restores the best state at the end.

    Args:
        name: written into run.json: ``validation`` or ``oracle``.
        every: epochs between evaluations; the last epoch of a training is not forced.
        measure: returns named figures; called with the detector up to date, in eval mode.
        criterion: the figure to maximise, computed from the named ones.
        select: restore the best state after training.
    """

    def __init__(
        self,
        name: str,
        every: int,
        measure: Callable[[AnomalyModule], dict[str, Any]],
        criterion: Callable[[dict[str, Any]], float],
        history: History,
        *,
        select: bool,
    ) -> None:
        self.name, self.every = name, every
        self.measure, self.criterion, self.history = measure, criterion, history
        self.select = select
        self.best: dict[str, Any] | None = None
        self._state: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "state": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self._state = state["best"], state["state"]

    @property
    def state_key(self) -> str:
        return f"Selection[{self.name}]"

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        epoch = trainer.current_epoch + 1
        if self.every <= 0 or epoch % self.every:
            return
        assert isinstance(module, AnomalyModule)
        training = module.training
        module.eval()
        module.refresh()
        figures = self.measure(module)
        module.train(training)
        self.history.extra |= {
            key: value for key, value in figures.items() if isinstance(value, int | float)
        }
        value = self.criterion(figures)
        if self.best is None or value > self.best["criterion"]:
            self.best = {"epoch": epoch, "criterion": value, **figures}
            if self.select:
                self._state = _trained_state(module)

    def restore(self, module: AnomalyModule) -> int | None:
        """Load the best state into the module; return its epoch."""
        if not self.select or self.best is None:
            return None
        module.load_state_dict(self._state, strict=False)
        return int(self.best["epoch"])


def _trained_state(module: AnomalyModule) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {name: value.detach().clone() for name, value in state.items() if not is_frozen(name)}
