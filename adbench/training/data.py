"""From a configuration to samples and a data module; pre-flight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from adbench.config.schema import DatasetKeys, Settings
from adbench.data.catalogue import dataset_root
from adbench.data.changes import Change, DirtyBackground, Light
from adbench.data.check import check_samples, told
from adbench.data.datamodule import DataModule, split_samples
from adbench.data.depth import found_depth
from adbench.data.layouts import get_layout
from adbench.data.layouts.base import Layout
from adbench.data.layouts.csv_file import CsvLayout
from adbench.data.layouts.folder import FolderLayout
from adbench.data.layouts.pictures import PicturesLayout
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest
from adbench.methods.base import Requirements
from adbench.synthesis.foreground import otsu_foreground


def open_layout(dataset: DatasetKeys) -> tuple[Layout, Path]:
    """Return the layout and the root of a data set."""
    return _opened(resolved_dataset(dataset))


def resolved_dataset(dataset: DatasetKeys) -> DatasetKeys:
    """Return the keys as they mean the same from any folder: what a run records.

    ``root`` becomes absolute (but null for the demo, which is made anew anywhere), so does
    ``options.train_root``, and ``options.name`` becomes the category's name in force where the
    layout has that option. Own folders without root and name are called after the folder that
    holds them all: ``dataset.options.normal=parts/good`` alone gives ``parts``.

    Raises:
        UserError: the root is missing, or an option is wrong.
    """
    layout, root = _opened(dataset)
    options = dict(dataset.options)
    if isinstance(layout, FolderLayout) and layout.name is None:
        given = dataset.root is not None
        options["name"] = layout.categories(root)[0] if given else layout.common_name(root)
    elif isinstance(layout, PicturesLayout):
        options["name"] = layout.categories(root)[0]
    elif isinstance(layout, CsvLayout):
        options["name"] = layout.category_of_unnamed(root)
    if options.get("train_root"):
        options["train_root"] = str(Path(options["train_root"]).expanduser().absolute())
    own = dataset.layout == "demo" and dataset.root is None
    return replace(dataset, root=None if own else str(root), options=options)


def _opened(dataset: DatasetKeys) -> tuple[Layout, Path]:
    layout = get_layout(dataset.layout, **dataset.options)
    root = dataset_root(
        dataset.name, layout=dataset.layout, root=dataset.root, folder=dataset.folder
    )
    return layout, root


def chosen_categories(dataset: DatasetKeys) -> list[str]:
    """Return the categories that ``dataset.category`` asks for, in the layout's order.

    Raises:
        UserError: the root is missing, or a category is not there.
    """
    layout, root = open_layout(dataset)
    known = layout.categories(root)
    wanted = dataset.category
    if wanted == "all":
        return known
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in known:
            raise UserError(
                f"no category '{name}' in {root}{nearest(name, known)} (there: {', '.join(known)})"
            )
    return names


def read_samples(dataset: DatasetKeys, categories: Sequence[str]) -> list[Sample]:
    """Return all samples of the categories."""
    layout, root = open_layout(dataset)
    found: list[Sample] = []
    for category in categories:
        found += layout.read(root, category)
    if not found:
        raise UserError(f"{root} holds no image of {', '.join(categories)}")
    return found


def build_datamodule(
    keys: Settings,
    samples: Sequence[Sample],
    *,
    all_normals: bool = False,
    needs_training: bool = True,
) -> DataModule:
    """Return the data module of one run.

    Its ``fit`` and ``bits`` are what a run records, and gives again as ``dataset.bits`` where it
    meets other pictures.

    Args:
        all_normals: nothing is held out.
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
    if len({sample.category for sample in samples}) > 1 and not needs.multiclass:
        raise UserError("this method trains one category at a time: dataset.multiclass=false")
    if keys.hardware.devices not in (1, "1", "auto") and not needs.ddp:
        raise UserError(f"hardware.devices={keys.hardware.devices}: this method uses one device")
    _check_memory(needs.memory_bytes)


def available_memory() -> int | None:
    """Return bytes of free memory; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    return values.get("MemAvailable")


def _check_memory(needed: int) -> None:
    free = available_memory()
    if free is not None and needed > free:
        raise UserError(
            f"the method's caches need about {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are "
            "free; lower dataset.image_size, dataset.limit or the method's max_memory"
        )
