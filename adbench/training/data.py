"""From settings and samples to a data module; pre-flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adbench.config.schema import DatasetKeys, Settings
from adbench.data.changes import Change, DirtyBackground, Light
from adbench.data.check import check_samples, told
from adbench.data.datamodule import DataModule, split_samples
from adbench.data.defects import SEEN
from adbench.data.depth import found_depth
from adbench.data.sample import ANOMALOUS, Sample
from adbench.errors import UserError
from adbench.methods.base import Requirements
from adbench.methods.memory import free_memory
from adbench.synthesis.foreground import otsu_foreground


def build_datamodule(
    keys: Settings,
    samples: Sequence[Sample],
    *,
    all_normals: bool = False,
    fold: tuple[int, int] | None = None,
    needs_training: bool = True,
) -> DataModule:
    """Return the data module of one run.

    Its ``fit`` and ``bits`` are what a run records, and gives again as ``dataset.bits`` where it
    meets other pictures.

    Args:
        all_normals: nothing is held out.
        fold: (number, count): that part of all normals is held out, and there is no test set.
        needs_training: False where pictures are only to be scored and there may be none to fit.
    """
    dataset, light = keys.dataset, keys.train.light
    splits = split_samples(
        samples,
        hold_out=dataset.hold_out,
        shots=dataset.shots,
        limit=dataset.limit,
        seed=keys.seed,
        needs_training=needs_training,
    )
    if fold is not None:
        splits = splits.fold(*fold, keys.seed)
    return DataModule(
        splits.all_normals() if all_normals else splits,
        image_size=dataset.size,
        fit=dataset.fit,
        bits=depth_of(dataset, samples),
        batch_size=keys.train.batch_size,
        seed=keys.seed,
        workers=keys.hardware.workers,
        max_memory=keys.train.max_memory,
        epoch_images=keys.train.epoch_images,
        copies=light.copies,
        train_changes=[Light(light.brightness, light.contrast, keys.seed)] if light.copies else [],
        changes=_background(dataset, keys.seed),
    )


def depth_of(dataset: DatasetKeys, samples: Sequence[Sample]) -> int | None:
    """Return ``dataset.bits``, or where it is null what ``found_depth`` finds in all samples."""
    return dataset.bits if dataset.bits is not None else found_depth(samples)


def _background(dataset: DatasetKeys, seed: int) -> list[Change]:
    keys = dataset.corrupt_background
    if keys.jitter == 0 and keys.noise == 0:
        return []
    return [DirtyBackground(keys.jitter, keys.noise, otsu_foreground, seed)]


def check_data(
    samples: Sequence[Sample], say: Callable[[str], None], *, bits: int | None = None
) -> None:
    """Check that files are whole and paired before anything is trained.

    Warnings are said, one line a kind.

    Args:
        bits: depth in force (``dataset.bits``, or the run's); None to find it.

    Raises:
        UserError: a file that the run needs is wrong; the first one is named.
    """
    findings = check_samples(samples, full=False, bits=bits)
    errors = [finding for finding in findings if finding.level == "error"]
    for level, line in told(findings):
        if level == "warning":
            say(f"note: {line}")
    if errors:
        more = f" (and {len(errors) - 1} more: adbench data check)" if len(errors) > 1 else ""
        raise UserError(told(errors[:1])[0][1] + more)


def check_requirements(needs: Requirements, keys: Settings, samples: Sequence[Sample]) -> None:
    """Refuse settings that the method cannot work with, before its training starts.

    Raises:
        UserError: image size, batch size, several categories or several devices do not fit.
    """
    height, width = keys.dataset.size
    multiple = needs.size_multiple
    if height % multiple or width % multiple or min(height, width) < needs.min_size:
        fit = max(needs.min_size, round(min(height, width) / multiple) * multiple)
        raise UserError(
            f"dataset.image_size={height}x{width}: this method needs sides of at least "
            f"{needs.min_size} px that are multiples of {multiple}; try dataset.image_size={fit}"
        )
    if keys.train.batch_size < needs.min_batch:
        raise UserError(f"train.batch_size={keys.train.batch_size}: at least {needs.min_batch}")
    if needs.needs_defects and not any(sample.split == SEEN for sample in samples):
        _refuse_defectless(keys, samples)
    if len({sample.category for sample in samples}) > 1 and not needs.multiclass:
        raise UserError("this method trains one category at a time: dataset.multiclass=false")
    if keys.hardware.strategy == "ddp" and not needs.ddp:
        raise UserError("hardware=ddp: this method has no steps to share: hardware=auto")
    _check_memory(needs.memory_bytes)


def check_shares(processes: int, keys: Settings, train_images: int) -> None:
    """Refuse batches that cannot be dealt out in equal parts.

    Raises:
        UserError: says which batch size can.
    """
    size = keys.train.batch_size
    if size % processes:
        fit = max(round(size / processes), 1) * processes
        raise UserError(
            f"train.batch_size={size} cannot be dealt out to {processes} processes: it is the "
            f"batch of all of them together; try train.batch_size={fit}"
        )
    if train_images < processes:
        raise UserError(f"{train_images} training images for {processes} processes")


def _refuse_defectless(keys: Settings, samples: Sequence[Sample]) -> None:
    """Raise UserError that says why no real defect can be learned from, and what helps."""
    bad = [sample for sample in samples if sample.label == ANOMALOUS]
    masked = [sample for sample in bad if sample.masks]
    category = samples[0].category if samples else "the category"
    if keys.dataset.defects is None:
        raise UserError("this method learns from a few real defects: set dataset.defects=third")
    if not bad:
        raise UserError(
            f"{category} has no defective picture; this method needs at least one with its mask "
            "(a method that needs none: model=glass)"
        )
    if not masked:
        raise UserError(
            f"none of the {len(bad)} defective pictures of {category} has a mask; at least one is "
            "needed (a method that needs none: model=glass)"
        )
    raise UserError(
        f"every defect type of {category} has one picture, which is left to be tested; name those "
        f"that may be seen: dataset.defects=[{masked[0].relative}] (diffusion=none works from one)"
    )


def _check_memory(needed: int) -> None:
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(
            f"this needs about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are "
            "free; lower dataset.image_size, dataset.limit, or the method's widths and max_memory"
        )
