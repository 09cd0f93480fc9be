"""Contracts of a method: Detector (inference), AnomalyModule (training), what it requires."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adbench.config.targets import imported
from adbench.errors import UserError
from adbench.methods import ranks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from adbench.data.datamodule import DataModule
    from adbench.methods.memo import RowMemo
    from adbench.runs.stages import Stage


class Prediction(NamedTuple):
    """What a detector returns.

    Attributes:
        score: [B] float32, raw; higher is more anomalous.
        anomaly_map: [B, 1, H, W] float32, raw, at the input's resolution.
    """

    score: Tensor
    anomaly_map: Tensor


class Detector(nn.Module):
    """Everything inference needs and nothing else; no Lightning, no Hydra.

    Subclasses implement ``forward(image)`` for image [B, 3, H, W] float32 in 0..1 of any size.
    Promises: no state changes in forward; the score of an image does not depend on the rest of
    the batch; all tensors it needs are in ``state_dict``; ``config`` holds the plain keyword
    arguments from which ``type(self)(**config)`` builds the same architecture without reading
    any weights file.

    Attributes:
        pictures: how a run brought pictures to it: ``size``, ``fit``, ``bits``; set on loading.
        threshold: the run's, in raw score units; None where it has none. Set on loading.
    """

    config: dict[str, Any]
    pictures: Mapping[str, Any] | None = None
    threshold: float | None = None

    def forward(self, image: Tensor) -> Prediction:
        raise TypeError(f"{type(self).__name__} does not implement forward")

    def predict(self, image: Any) -> Prediction:
        """Return score and map of pictures, brought to size as the run brought its own.

        Args:
            image: a path, a PIL image, [H, W], [H, W, 3] or [B, H, W, 3] uint8 RGB, or a tensor
                [3, H, W] or [B, 3, H, W] in 0..1. ``score > detector.threshold`` is anomalous.

        Returns:
            score [B], and the map [B, 1, H, W] in the pictures' own frame, both on the CPU.

        Raises:
            UserError: a file cannot be read, or the input is none of these.
        """
        from adbench.methods.inputs import predicted

        return predicted(self, image)

    def named_maps(self, image: Tensor) -> dict[str, Tensor]:
        """Partial maps worth drawing, by name, each [B, 1, H, W]; empty for most methods."""
        return {}

    def sheet(self, image: Tensor, titles: Sequence[str]) -> NDArray[np.uint8] | None:
        """A picture, uint8 RGB, of how each image came by its map; None for most methods."""
        return None


def save_detector(
    detector: Detector, folder: Path, pictures: Mapping[str, Any] | None = None
) -> None:
    """Write ``detector.safetensors`` and ``detector.yaml`` into ``folder``, each in one rename.

    Args:
        pictures: how pictures are brought to the detector: ``size``, ``fit``, ``bits``.
    """
    from adbench.runs.files import write_beside

    state = {
        name: value.detach().cpu().contiguous() for name, value in detector.state_dict().items()
    }
    kind = type(detector)
    document = {
        "_target_": f"{kind.__module__}.{kind.__qualname__}",
        "config": detector.config,
        "pictures": dict(pictures or {}),
    }
    with write_beside(folder / "detector.safetensors") as temporary:
        save_file(state, temporary)
    with write_beside(folder / "detector.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def load_detector(folder: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Return the trained detector of a run folder, in eval mode on ``device``.

    Nothing in the folder can run code: tensors are read as tensors, and the class must belong to
    adbench or to a plug-in that the caller declared (``ADBENCH_PLUGINS``).

    Raises:
        UserError: the folder holds no finished detector, a damaged one, or one of an unknown
            kind.
    """
    from adbench.runs.files import WAY_OUT, read_yaml

    folder = Path(folder)
    card = folder / "detector.yaml"
    if not card.exists():
        raise UserError(f"no trained detector in {folder}: detector.yaml is missing; train first")
    document = read_yaml(card)
    target, config = document.get("_target_"), document.get("config")
    if not isinstance(target, str) or not isinstance(config, dict):
        raise UserError(f"{card} is damaged (no class, or no section config); {WAY_OUT}")
    kind = imported(target, Detector, str(card))
    state = _state(folder / "detector.safetensors")
    try:
        detector: Detector = kind(**config)
        detector.load_state_dict(state, strict=True)
    except UserError as error:
        raise UserError(f"{card}: {error}") from error
    except Exception as error:  # whatever a constructor makes of a config that is not its own
        told = " ".join(str(error).split())[:160]
        raise UserError(f"{folder} holds a damaged detector ({told}); {WAY_OUT}") from error
    pictures = document.get("pictures")
    detector.pictures = pictures if isinstance(pictures, dict) else None
    detector.threshold = _threshold(folder / "threshold.json")
    return detector.to(device).eval()


def _threshold(path: Path) -> float | None:
    """Return a run's threshold, if one is stored beside its detector."""
    from adbench.runs.files import read_record

    value = read_record(path).get("value") if path.is_file() else None
    return float(value) if isinstance(value, int | float) else None


def _state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; refuses links, pipes and broken files."""
    from adbench.runs.files import WAY_OUT

    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is missing or no ordinary file; {WAY_OUT}")
    try:
        return dict(load_file(path))
    except Exception as error:  # its reader has errors of its own
        told = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read ({told}); {WAY_OUT}") from error


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a method declares about itself, checked before any data is read.

    Attributes:
        size_multiple: image height and width must be multiples of this.
        min_size: smallest allowed side in pixels.
        min_batch: smallest training batch (batch statistics may need several images).
        needs_masks, needs_defects: real masks or defects needed in training.
        uses_synthesis: trains on synthetic anomalies.
        uses_held_out: the detector itself is settled on held-out normals, so that they cannot be
            trained on (no ``train.refit``).
        one_pass: the detector is complete before the first step; epochs change nothing.
        multiclass, ddp, export: supported or not.
        memory_bytes: estimate of caches held in memory for ``train_images`` images.
    """

    size_multiple: int = 1
    min_size: int = 32
    min_batch: int = 1
    needs_masks: bool = False
    needs_defects: bool = False
    uses_synthesis: bool = False
    uses_held_out: bool = False
    one_pass: bool = False
    multiclass: bool = True
    ddp: bool = False
    export: bool = True
    memory_bytes: int = 0


_FROZEN = ("backbone.", "detector.backbone.")


def is_frozen(name: str) -> bool:
    """Whether a tensor of a module's state belongs to the backbone, which training leaves."""
    return name.startswith(_FROZEN)


class AnomalyModule(lightning.LightningModule):
    """Training of one method around its detector.

    A subclass's constructor takes ``backbone`` (a built FeatureExtractor or None), ``synthesis``
    (a built Synthesizer or None), ``image_size`` ((height, width)), ``seed`` and the method's own
    keys of ``conf/model/NAME.yaml``; it sets ``self.detector``.

    Promises: ``training_step(batch, batch_idx)`` returns a dict with ``loss`` (with its graph
    under automatic optimisation) and named parts (detached scalars), which become columns of
    history.csv. All randomness of a step comes from ``self.generator(batch_idx, stream)``, so
    that a resumed run repeats an uninterrupted one. The hook ``prepare(datamodule)`` runs before
    every fit, resumed or not, and must be deterministic. ``finish(datamodule)`` runs after the
    last step (recalibration, quantiles). State that training changes lives in parameters,
    buffers or ``on_save_checkpoint``.

    Attributes:
        stage_folder: where the run's finished stages lie; set before ``prepare``.
        progress: returns the share of the training's budget that is spent, 0..1; set before
            the first step.
        memo: features of photographs that detectors of one kind share; None where there is one
            detector. Set before ``prepare``; a method need not use it.
        planned_steps: batches that the budget comes to; None where minutes alone bound it. Set
            with ``progress``.
    """

    detector: Detector
    seed: int = 0
    stage_folder: Path | None = None
    progress: Callable[[], float] = staticmethod(lambda: 0.0)
    planned_steps: int | None = None
    memo: RowMemo | None = None

    def requirements(self, train_images: int) -> Requirements:
        """Return what holds for a training set of ``train_images`` images."""
        return Requirements()

    def prepare(self, datamodule: DataModule) -> None:
        """Compute what training needs once: caches, statistics, centres."""

    def refresh(self) -> None:
        """Bring ``self.detector`` up to date with the training state, before it predicts."""

    def finish(self, datamodule: DataModule) -> None:
        """Compute what inference needs after the last step."""

    def stages(self) -> list[Stage]:
        """Return the stages that precede ``fit``, in order; most methods have none."""
        return []

    def artefacts(self, folder: Path) -> None:
        """Write pictures and tables of the method's own into the run folder."""

    def generator(self, batch_idx: int, stream: int = 0) -> torch.Generator:
        """Return a generator on the module's device, fixed by (seed, epoch, batch, stream)."""
        keys = (self.current_epoch, batch_idx, stream, *ranks.own_key())
        return seeded_generator(self.device, self.seed, *keys)

    def common_generator(self, batch_idx: int, stream: int = 0) -> torch.Generator:
        """Return a generator that is in one state in all processes that share the step.

        For draws of the whole batch, of which each process takes its part (``ranks.own_rows``).
        """
        keys = (self.current_epoch, batch_idx, stream)
        return seeded_generator(self.device, self.seed, *keys)

    def forward(self, image: Tensor) -> Prediction:
        prediction: Prediction = self.detector(image)
        return prediction


def seeded_generator(device: torch.device | str, *keys: int) -> torch.Generator:
    """Return a generator on ``device`` whose state is a fixed hash of the integer ``keys``."""
    state = 0x9E3779B97F4A7C15
    for key in keys:  # splitmix64 over the keys: near keys give unrelated streams
        state = (state + (key & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    generator = torch.Generator(device=device)
    generator.manual_seed(state & 0x7FFFFFFFFFFFFFFF)
    return generator
