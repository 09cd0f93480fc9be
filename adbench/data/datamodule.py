"""The data of one run: splits, loaders, order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from adbench.config.schema import Fit
from adbench.data.batch import Batch
from adbench.data.cache import ImageCache
from adbench.data.changes import Change
from adbench.data.defects import SEEN
from adbench.data.sample import NORMAL, Sample
from adbench.errors import UserError


@dataclass(frozen=True, slots=True)
class Splits:
    """Samples of one run: normals to fit, held-out normals, test set, defects that may be seen."""

    train: list[Sample]
    val: list[Sample]
    test: list[Sample]
    defects: list[Sample] = field(default_factory=list)

    def all_normals(self) -> Splits:
        """Return splits that train on the held-out normals too and hold out nothing."""
        return Splits(ordered([*self.train, *self.val]), [], self.test, self.defects)

    def fold(self, number: int, count: int, seed: int) -> Splits:
        """Return splits that hold out part ``number`` of ``count`` of all normals; no test set.

        The parts are drawn by ``seed``, each category spread over all of them.
        """
        normals = ordered([*self.train, *self.val])
        drawn = np.random.default_rng([seed, 0xF01D]).permutation(len(normals)).tolist()
        order = sorted(drawn, key=lambda i: normals[i].category)
        out = set(order[number::count])
        kept = [sample for i, sample in enumerate(normals) if i not in out]
        return Splits(kept, [normals[i] for i in sorted(out)], [])


def ordered(samples: Iterable[Sample]) -> list[Sample]:
    """Return samples by category and relative path."""
    return sorted(samples, key=lambda sample: (sample.category, sample.relative))


def split_samples(
    samples: Sequence[Sample],
    *,
    hold_out: float = 0.1,
    shots: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    needs_training: bool = True,
) -> Splits:
    """Return the splits of ``samples``, the held-out normals drawn by ``seed``.

    Args:
        hold_out: fraction of the training normals held out (at least one image when positive),
            per category; unused where the data set has its own validation split.
        shots: number of training normals per category, drawn by ``seed`` before anything is held
            out; with shots the data set's own validation split stays whole.
        limit: at most so many images of each split, evenly spaced over its order; a test set
            keeps its share of defects.
        seed: fixes who is held out.
        needs_training: False where pictures are only to be scored: there may be none to train on.

    Raises:
        UserError: there is no normal image to train on, or no image at all.
    """
    found = ordered(samples)
    normals = [s for s in found if s.split == "train" and s.label == NORMAL]
    val = [s for s in found if s.split == "val" and s.label == NORMAL]
    test = [s for s in found if s.split == "test"]
    train: list[Sample] = []
    held: list[Sample] = []
    for category in sorted({sample.category for sample in normals}):
        own = [sample for sample in normals if sample.category == category]
        kept, out = _held_out(own, 0.0 if val else hold_out, shots, seed)
        train += kept
        held += out
    if not train and needs_training:
        raise UserError("no normal training image was found; at least one is needed to train on")
    if not (train or val or test):
        raise UserError("no image to test on: neither a test split nor held-out normals")
    seen = [sample for sample in found if sample.split == SEEN]
    held_out = _spread(val or held, limit)
    return Splits(_spread(train, limit), held_out, _spread_test(test, limit), seen)


def _held_out(
    own: list[Sample], hold_out: float, shots: int | None, seed: int
) -> tuple[list[Sample], list[Sample]]:
    order = np.random.default_rng([seed, 0x5011]).permutation(len(own))
    if shots is not None:
        if shots > len(own):
            raise UserError(f"dataset.shots={shots}, but there are only {len(own)} normal images")
        order = order[:shots]
    count = 0
    if hold_out > 0 and len(order) > 1:  # at least one on either side
        count = min(max(1, round(hold_out * len(order))), len(order) - 1)
    out = set(order[:count].tolist())
    kept = sorted(set(order.tolist()) - out)
    return [own[i] for i in kept], [own[i] for i in sorted(out)]


def _spread(samples: list[Sample], limit: int | None) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return samples
    return [samples[i] for i in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


def _spread_test(samples: list[Sample], limit: int | None) -> list[Sample]:
    if limit is None or len(samples) <= limit:
        return samples
    good = [s for s in samples if s.label == NORMAL]
    bad = [s for s in samples if s.label != NORMAL]
    share = min(max(math.ceil(limit * len(good) / len(samples)), min(len(good), 1)), limit)
    chosen = _spread(good, share) + _spread(bad, limit - share)
    return ordered(chosen)


class _Split(Dataset[int]):
    """Positions of a split; pixels are fetched a batch at a time by ``SplitReader``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


class SplitReader:
    """Turns positions of a split into a Batch (the loaders' ``collate_fn``).

    With copies, position i + k n is copy k of photograph i of n.

    Attributes:
        samples: one for each position.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        cache: ImageCache,
        copies: int = 0,
        changes: Sequence[Change] = (),
    ) -> None:
        self.photographs = len(samples)
        self.samples = list(samples) * (1 + copies)
        self.cache = cache
        self.changes = tuple(changes)

    def __call__(self, indices: Sequence[int]) -> Batch:
        pixels = self.cache.rows([i % self.photographs for i in indices])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
        chosen = [self.samples[i] for i in indices]
        for change in self.changes:
            for row, position in enumerate(indices):
                image[row] = change(image[row], chosen[row], position // self.photographs)
        return Batch(
            image=image.contiguous(),
            label=torch.tensor([sample.label for sample in chosen]),
            index=torch.tensor(list(indices)),
            category=[sample.category for sample in chosen],
            defect=[sample.defect for sample in chosen],
            path=[sample.relative for sample in chosen],
        )


class SeededSampler(Sampler[int]):
    """A permutation fixed by (seed, epoch); the trainer sets the epoch.

    With several processes each batch of that one order is cut into equal parts, so that their
    steps together are those of one process. Where the last batch cannot be, an epoch leaves out
    up to ``size`` - 1 images; which ones, changes with the epoch.

    Args:
        part: (rank, size) of this process; ``batch_size`` is a multiple of ``size``.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        limit: int | None = None,
        *,
        batch_size: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        limit = count if limit is None else min(limit, count)
        self.part, self.batch_size = part, batch_size
        self.limit = limit - limit % part[1]

    def __len__(self) -> int:
        return self.limit // self.part[1]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch, 0x0DE4]).permutation(self.count)
        kept = order[: self.limit].tolist()
        rank, size = self.part
        if size == 1:
            return iter(kept)
        batches = [kept[i : i + self.batch_size] for i in range(0, self.limit, self.batch_size)]
        return iter([i for each in batches for i in _part_of(each, rank, size)])


def _part_of(batch: list[int], rank: int, size: int) -> list[int]:
    share = len(batch) // size
    return batch[rank * share : (rank + 1) * share]


class DataModule(lightning.LightningDataModule):
    """Splits and loaders of one run.

    Attributes:
        image_size: (height, width) of every batch.
        fit, bits: how pictures were brought to that size and to 8 bits.
        train_samples, val_samples, test_samples: normals to fit (every copy one), held-out
            normals, test set.

    Args:
        copies: changed copies of every training image; each counts as an image of its own, so
            that features of training images can still be computed once and kept.
        train_changes: what changes training images.
        changes: what changes images of all splits, after that.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        image_size: tuple[int, int],
        fit: Fit = "squash",
        bits: int | None = None,
        batch_size: int = 8,
        seed: int = 0,
        workers: int = 0,
        max_memory: int = 4 << 30,
        epoch_images: int | None = None,
        copies: int = 0,
        train_changes: Sequence[Change] = (),
        changes: Sequence[Change] = (),
    ) -> None:
        super().__init__()
        self.splits = splits
        self.image_size = image_size
        self.fit: Fit = fit
        self.bits = bits
        self.batch_size = batch_size
        self.seed = seed
        self.workers = workers
        self.epoch_images = epoch_images
        self._part = (0, 1)
        share = max_memory // 3
        caches = {
            name: ImageCache(samples, image_size, fit=fit, bits=bits, max_memory=share)
            for name, samples in (
                ("train", splits.train),
                ("val", splits.val),
                ("test", splits.test),
            )
        }
        self._readers = {
            name: SplitReader(cache.samples, cache, changes=changes)
            for name, cache in caches.items()
        }
        self._readers["train"] = SplitReader(
            splits.train, caches["train"], copies, (*train_changes, *changes)
        )

    @property
    def train_samples(self) -> list[Sample]:
        return self._readers["train"].samples

    @property
    def val_samples(self) -> list[Sample]:
        return self.splits.val

    @property
    def test_samples(self) -> list[Sample]:
        return self.splits.test

    def without_test(self) -> DataModule:
        """Return the same data with an empty test set: what training code receives."""
        return DataModule(
            replace(self.splits, test=[]),
            image_size=self.image_size,
            fit=self.fit,
            bits=self.bits,
            batch_size=self.batch_size,
            seed=self.seed,
            workers=self.workers,
            epoch_images=self.epoch_images,
        )._sharing(self)

    def _sharing(self, other: DataModule) -> DataModule:
        for name in ("train", "val"):
            self._readers[name] = other._readers[name]
        self._part = other._part
        return self

    def train_batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the training images once, copies after all photographs, in index order."""
        return self._in_order("train", batch_size)

    def val_batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the held-out normals once, in index order."""
        return self._in_order("val", batch_size)

    def test_batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield the test images once, in index order; the last batch may be smaller."""
        return self._in_order("test", batch_size)

    def _in_order(self, name: str, batch_size: int | None) -> Iterator[Batch]:
        reader = self._readers[name]
        size = batch_size or self.batch_size
        count = len(reader.samples)
        for start in range(0, count, size):
            yield reader(range(start, min(start + size, count)))

    def train_images(self, index: Tensor) -> Tensor:
        """Return the training images [B, 3, H, W] float32 at positions ``index`` [B]."""
        return self._readers["train"](index.tolist()).image

    def test_images(self, index: Tensor) -> Tensor:
        """Return the test images [B, 3, H, W] float32 at positions ``index`` [B]."""
        return self._readers["test"](index.tolist()).image

    def share(self, rank: int, size: int) -> None:
        """Deal every training batch out to ``size`` processes, of which this is number ``rank``."""
        self._part = (rank, size)

    def train_dataloader(self) -> DataLoader[int]:
        sampler = SeededSampler(
            len(self.train_samples),
            self.seed,
            self.epoch_images,
            batch_size=self.batch_size,
            part=self._part,
        )
        return self._loader(sampler, self.batch_size // self._part[1])

    def _loader(self, sampler: Sampler[int], batch_size: int) -> DataLoader[int]:
        reader = self._readers["train"]
        if self.workers:
            reader.cache.fill()  # decoded once here, shared by forked workers
        return DataLoader(
            _Split(len(reader.samples)),
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.workers,
            collate_fn=reader,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
        )
