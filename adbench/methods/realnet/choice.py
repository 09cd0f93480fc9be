"""The choice of channels as an artefact: made once, written, read again, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adbench.data.datamodule import DataModule
from adbench.methods.base import seeded_generator
from adbench.methods.realnet.blocks import Candidate, candidate_maps, candidates
from adbench.methods.realnet.cache import NormalFeatures
from adbench.methods.realnet.detector import RealNetDetector
from adbench.methods.realnet.selection import channel_losses, kept_channels
from adbench.methods.realnet.settings import AfsKeys, CacheKeys
from adbench.runs.files import read_json, write_json
from adbench.synthesis.base import Synthesizer, Synthetic

_STREAM = 0xAF5


@dataclass(frozen=True, slots=True)
class Choice:
    """Kept channels of one layer of one block, and the losses that they were chosen by.

    Attributes:
        index: ascending channels.
        losses: one per channel, summed over the batches; empty where chance chose.
    """

    block: int
    place: int
    index: tuple[int, ...]
    losses: tuple[float, ...] = ()


def write_choices(path: Path, choices: list[Choice]) -> None:
    """Write the choices as JSON."""
    names = ("block", "place", "index", "losses")
    write_json(path, [{name: getattr(choice, name) for name in names} for choice in choices])


def read_choices(path: Path) -> list[Choice]:
    """Return the choices of a file written by ``write_choices``."""
    return [
        Choice(c["block"], c["place"], tuple(c["index"]), tuple(c["losses"]))
        for c in read_json(path)
    ]


class ChannelChooser:
    """Scores channels on synthetic pairs drawn from the training normals (Eq. 4).

    ``plain`` scores every layer, runs the backbone on both images of a pair and sweeps once per
    block with draws of its own, as the authors' code does.
    """

    def __init__(
        self,
        detector: RealNetDetector,
        synthesis: Synthesizer,
        datamodule: DataModule,
        keys: AfsKeys,
        *,
        cache: CacheKeys,
        seed: int,
        device: torch.device,
        plain: bool = False,
    ) -> None:
        self.detector, self.synthesis, self.datamodule = detector, synthesis, datamodule
        self.keys, self.cache, self.seed, self.device = keys, cache, seed, device
        self.plain = plain
        channels = detector.backbone.channels
        self.open = candidates(detector.selected.blocks, channels, every=plain)

    @torch.no_grad()
    def choices(self) -> list[Choice]:
        """Return a choice for every layer of a block from which something is left out."""
        if self.keys.mode == "rdr":
            return [self._by_chance(c) for c in self.open]
        if self.keys.mode == "rlpr" or not self.open:
            return []
        losses = self._losses_by_block() if self.plain else self._losses()
        found = []
        for candidate, loss in zip(self.open, losses, strict=True):
            index = kept_channels(loss, candidate.kept).tolist()
            finite = torch.nan_to_num(loss).tolist()
            found.append(Choice(candidate.block, candidate.place, tuple(index), tuple(finite)))
        return found

    def _losses(self) -> list[Tensor]:
        normal = NormalFeatures(self.datamodule, self._maps, self.cache, self.device)
        pairs = (
            (self._maps(made.image), normal(index), made.mask) for index, _, made in self.drawn()
        )
        return channel_losses(pairs, per_image=self.keys.norm == "image")

    def _losses_by_block(self) -> list[Tensor]:
        found = []
        for number in dict.fromkeys(c.block for c in self.open):
            own = [c for c in self.open if c.block == number]
            pairs = (
                (self._maps(made.image, own), self._maps(image, own), made.mask)
                for _, image, made in self.drawn(number)
            )
            found += channel_losses(pairs, per_image=self.keys.norm == "image", plain=True)
        return found

    def _maps(self, image: Tensor, own: list[Candidate] | None = None) -> list[Tensor]:
        return candidate_maps(self.detector.backbone(image), self.open if own is None else own)

    def _by_chance(self, candidate: Candidate) -> Choice:
        total = self.detector.backbone.channels[candidate.layer]
        keys = (self.seed, _STREAM, candidate.block, candidate.place)
        order = torch.randperm(total, generator=seeded_generator("cpu", *keys))
        index = order[: candidate.kept].sort().values.tolist()
        return Choice(candidate.block, candidate.place, tuple(index))

    def drawn(self, stream: int = 0) -> Iterator[tuple[Tensor, Tensor, Synthetic]]:
        """Yield (index [b], normal images, composites) batches; undamaged ones are left out."""
        order = self._order(stream)
        for number in range(self.keys.batches):
            index = order[number * self.keys.batch : (number + 1) * self.keys.batch]
            image = self.datamodule.train_images(index).to(self.device)
            generator = seeded_generator(self.device, self.seed, _STREAM, stream, number)
            foreground = self.synthesis.foreground_masks(index)
            made = self.synthesis(image, foreground=foreground, generator=generator)
            damaged = made.mask.flatten(1).any(1)
            if damaged.any():
                yield (
                    index[damaged.cpu()],
                    image[damaged],
                    Synthetic(*(part[damaged] for part in made)),
                )

    def _order(self, stream: int) -> Tensor:
        count, wanted = len(self.datamodule.train_samples), self.keys.batches * self.keys.batch
        rng = np.random.default_rng([self.seed, _STREAM, stream])
        rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
        return torch.from_numpy(np.concatenate(rounds)[:wanted])


def apply_choices(detector: RealNetDetector, choices: list[Choice]) -> None:
    """Set the kept channels of the detector."""
    for choice in choices:
        detector.selected.choose(choice.block, choice.place, torch.tensor(choice.index))
