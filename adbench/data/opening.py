"""From the keys of a data set to its samples. Nothing here imports torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adbench.config.schema import DatasetKeys
from adbench.data.catalogue import dataset_root
from adbench.data.layouts import get_layout
from adbench.data.layouts.base import Layout
from adbench.data.layouts.csv_file import CsvLayout
from adbench.data.layouts.folder import FolderLayout
from adbench.data.layouts.pictures import PicturesLayout
from adbench.data.sample import Sample
from adbench.errors import UserError, nearest


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


def located(config: Mapping[str, Any], dataset: DatasetKeys) -> dict[str, Any]:
    """Return the configuration with its data's place and name written out.

    A run that is tested from another folder finds its pictures, and its category keeps its name.
    """
    found = resolved_dataset(dataset)
    section = {**config["dataset"], "root": found.root, "options": dict(found.options)}
    return {**config, "dataset": section}


def chosen_categories(dataset: DatasetKeys) -> list[str]:
    """Return the categories that ``dataset.category`` asks for, in the layout's order.

    Raises:
        UserError: the root is missing, or a category is not there.
    """
    layout, root = open_layout(dataset)
    known = {unicodedata.normalize("NFC", name): name for name in layout.categories(root)}
    wanted = dataset.category
    if wanted == "all":
        return list(known.values())
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if unicodedata.normalize("NFC", name) not in known:
            raise UserError(
                f"no category '{name}' in {root}{nearest(name, known)} (there: {', '.join(known)})"
            )
    return [known[unicodedata.normalize("NFC", name)] for name in names]


def read_samples(dataset: DatasetKeys, categories: Sequence[str]) -> list[Sample]:
    """Return all samples of the categories."""
    layout, root = open_layout(dataset)
    found: list[Sample] = []
    for category in categories:
        found += layout.read(root, category)
    if not found:
        raise UserError(f"{root} holds no image of {', '.join(categories)}")
    return found
