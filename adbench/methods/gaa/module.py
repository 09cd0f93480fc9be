"""Training of GAA: the stages make pairs, the fit trains a localisation network on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.config.typed import from_mapping
from adbench.data.batch import Batch
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods import ranks
from adbench.methods.base import AnomalyModule, Requirements
from adbench.methods.gaa.chain import VISIBLE, Maker, PasteMaker, extractor_of
from adbench.methods.gaa.classifier import check_weights, fitted, with_weights
from adbench.methods.gaa.detector import GaaDetector
from adbench.methods.gaa.pairs import PairSet, altered, read_pair, read_rows
from adbench.methods.gaa.selection import Best, divided
from adbench.methods.gaa.settings import GaaKeys
from adbench.methods.gaa.stages import Stages
from adbench.methods.gaa.unet import focal_loss
from adbench.methods.gaa.units import Mask, Picture, RealDefects, read_real
from adbench.methods.memory import training_bytes
from adbench.runs.files import write_json
from adbench.runs.stages import Stage, StageContext
from adbench.synthesis.base import Synthesizer

_MULTIPLE = 32
_NAME = 0x7E9E
_SYNTHETIC = ("pairs", "real_pairs")  # with pairs that can be held out


class GaaModule(AnomalyModule):
    """GAA around its detector.

    Args:
        backbone: features for clusters, regions and the scorer.
        synthesis: anomalies for ``model.use.data=synthesis``; not used otherwise.
        diffusion: what paints defects; None pastes the real ones.
        image_size: working (height, width).
        seed: of every draw.
        keys: conf/model/gaa.yaml.
    """

    detector: GaaDetector

    def __init__(
        self,
        *,
        backbone: FeatureExtractor | None,
        synthesis: Synthesizer | None,
        diffusion: nn.Module | None,
        image_size: Sequence[int],
        seed: int,
        **keys: Any,
    ) -> None:
        super().__init__()
        self.keys = own = from_mapping(GaaKeys, keys, "model")
        self.backbone, self.seed = extractor_of(backbone), seed
        self.synthesis, self.diffusion = synthesis, diffusion
        _check_prediction(diffusion)
        if own.use.data == "synthesis" and synthesis is None:
            raise UserError("model.use.data=synthesis: set synthesis=draem")
        size = (int(image_size[0]), int(image_size[1]))
        self.detector = GaaDetector(
            own.use.width, size, own.use.window, (), {"network": own.classifier.network}
        )
        self._pairs: PairSet | None = None
        self._held: PairSet | None = None
        self.best = Best(self.detector.network) if self._selects else None
        self._known = ""

    def requirements(self, train_images: int) -> Requirements:
        width, (height, columns) = self.keys.use.width, self.detector.size
        maps = 4 * 40 * width * height * columns
        return Requirements(
            size_multiple=_MULTIPLE,
            min_size=_MULTIPLE,
            needs_masks=True,
            needs_defects=self.keys.use.data != "synthesis",
            multiclass=False,
            ddp=True,
            export=False,
            memory_bytes=training_bytes(self.detector.network) + maps,
        )

    @property
    def makes_pairs(self) -> bool:
        """Whether the network is trained on pairs, or on their masks."""
        return self.keys.use.data in ("pairs", "real_pairs", "canvases")

    @property
    def _selects(self) -> bool:
        """Whether the best state on held-out pairs counts; real defects alone are too few."""
        return self.keys.use.select == "synthetic" and self.keys.use.data in _SYNTHETIC

    # Before the fit

    def stages(self) -> list[Stage]:
        if self.keys.use.data != "synthesis":
            check_weights(self.keys.classifier)
        return self.chain().all() if self.makes_pairs else []

    def chain(self) -> Stages:
        """Return what builds the stages."""
        if self.diffusion is None:
            return Stages(
                self.keys,
                self.backbone,
                self.seed,
                self.device,
                base="real components (diffusion=none)",
                outline=False,
                maker=self._paster,
            )
        from adbench.methods.gaa.painting import painting_stages

        return painting_stages(self.keys, self.backbone, self.diffusion, self.seed, self.device)

    def _paster(
        self, stages: Path, real: RealDefects, context: StageContext
    ) -> tuple[Maker, float]:
        del stages, context
        return PasteMaker(real, self.keys), VISIBLE

    def prepare(self, datamodule: DataModule) -> None:
        if self.synthesis is not None:
            self.synthesis.prepare(datamodule)
        self._pairs = self._read_pairs(datamodule)
        self.detector.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _read_pairs(self, datamodule: DataModule) -> PairSet | None:
        data = self.keys.use.data
        found: list[tuple[Picture, Mask, str]] = []
        held: list[tuple[Picture, Mask, str]] = []
        if data in ("real", "real_pairs"):
            found += read_real(datamodule, self.keys.cluster.min_area).pairs()
        if self.makes_pairs:
            assert self.stage_folder is not None
            folder = self.stage_folder / "filter"
            rows = read_rows(folder)
            apart: list[int] = []
            if self._selects:
                canvases = [int(row["canvas"]) for row in rows]
                _, apart = divided(canvases, [str(row["defect"]) for row in rows])
            for number, row in enumerate(rows):
                image, mask = read_pair(folder, row)
                if data == "canvases":
                    (image,) = _canvas(datamodule, int(row["canvas"]))
                (held if number in apart else found).append((image, mask, str(row["defect"])))
        self._held = _set(held)
        return _set(found)

    # The fit

    def configure_optimizers(self) -> torch.optim.Optimizer:
        keys = self.keys.use
        return torch.optim.AdamW(self.detector.network.parameters(), lr=keys.learning_rate)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        keys = (self.seed, self.current_epoch, batch_idx, 0x0E7, *ranks.own_key())
        rng = np.random.default_rng(keys)
        image, mask = self._mixed(batch, batch_idx, rng)
        flips = self.keys.use.augment == "flips"
        image, mask = altered(image, mask, rng, self.keys.use.jitter, flips=flips)
        self._slow_down()
        self._look()
        inputs = image.contiguous(memory_format=torch.channels_last)
        logits = self.detector.network(inputs)
        loss = focal_loss(logits, mask, self.keys.use.gamma)
        with torch.no_grad():
            said = logits.float().softmax(1)[:, 1:]
            inside = said[mask].mean() if mask.any() else said.new_zeros(())
        return {"loss": loss, "inside": inside, "outside": said[~mask].mean().detach()}

    def _slow_down(self) -> None:
        """Let the rate fall to a fifth at 80 % and again at 90 % of the budget (code)."""
        done = self.progress()
        factor = 0.2 ** ((done >= 0.8) + (done >= 0.9))
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = self.keys.use.learning_rate * factor

    def _look(self, *, last: bool = False) -> None:
        if (
            self.best is not None
            and self._held is not None
            and (last or self.best.due(self.progress()))
        ):
            self.best.look(self.detector.network, self._held, 1.0 if last else self.progress())

    def _mixed(
        self, batch: Batch, batch_idx: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a batch of which a share is anomalous, with masks [B, 1, H, W] bool."""
        image = batch.image
        mask = torch.zeros_like(image[:, :1], dtype=torch.bool)
        share = self.keys.use.defective * len(image)
        count = int(share) + int(rng.random() < share - int(share))
        if not count:
            return image, mask
        if self._pairs is not None:
            bad, where, _ = self._pairs.tensors(self._pairs.draw(count, rng))
        else:
            assert self.synthesis is not None
            generator = self.generator(batch_idx, 0x5E7)
            rows = batch.index[:count]
            foreground = self.synthesis.foreground_masks(rows)
            made = self.synthesis(image[:count], foreground=foreground, generator=generator)
            bad, where = made.image, made.mask
        image = torch.cat([bad.to(image), image[count:]])
        return image, torch.cat([where.to(mask.device), mask[count:]])

    # After the fit

    def finish(self, datamodule: DataModule) -> None:
        """Take the best state of the network; train the one that names the type, on the pairs."""
        self._look(last=True)
        if self.best is not None and self._held is not None:
            self.detector.network.load_state_dict(self.best.network.state_dict())
        keys = self.keys.classifier
        pairs = self._pairs if self._pairs is not None else self._read_pairs(datamodule)
        if pairs is None or keys.network == "none" or len(pairs.names) < 2:
            return
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(self.seed)
            self.detector.set_types(pairs.names)
            network: Any = self.detector.classifier
            self._known = with_weights(network, keys)
            network.to(self.device)

            def draw(step: int) -> tuple[Tensor, Tensor]:
                rng = np.random.default_rng([self.seed, step, _NAME])
                image, mask, kind = pairs.tensors(pairs.draw(keys.batch_size, rng))
                image, _ = altered(image, mask, rng, self.keys.use.jitter, flips=True)
                return image.to(self.device), kind.to(self.device)

            fitted(network, draw, keys)
        network.requires_grad_(False)

    def artefacts(self, folder: Path) -> None:
        if self._known:
            write_json(folder / "gaa" / "classifier.json", {"weights": self._known})


def _set(found: list[tuple[Picture, Mask, str]]) -> PairSet | None:
    if not found:
        return None
    return PairSet([f[0] for f in found], [f[1] for f in found], [f[2] for f in found])


def _canvas(datamodule: DataModule, position: int) -> list[Picture]:
    from adbench.data.batch import pictures

    return pictures(datamodule.train_images(torch.tensor([position])))


def _check_prediction(diffusion: nn.Module | None) -> None:
    """Refuse a form of the network's answer that a model from scratch does not have here.

    Raises:
        UserError: any but ``edm``.
    """
    own = getattr(getattr(diffusion, "keys", None), "prediction", None)
    if own not in (None, "edm"):
        raise UserError(
            f"diffusion.prediction={own}: model=gaa paints preconditioned (edm) and no other way; "
            "leave the key out"
        )
