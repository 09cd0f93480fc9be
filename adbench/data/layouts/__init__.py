"""Layouts by name: how each kind of data set is read as it lies on disk."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adbench.data.layouts.base import Layout, check_category
from adbench.errors import UserError, nearest

_CLASSES = {
    "mvtec": "mvtec.MVTecLayout",
    "demo": "demo.DemoLayout",
}


def get_layout(name: str, **options: Any) -> Layout:
    """Return the layout ``name`` built with its options.

    Raises:
        UserError: no such layout, or no such option.
    """
    if name not in _CLASSES:
        known = ", ".join(sorted(_CLASSES))
        raise UserError(f"no layout '{name}'{nearest(name, _CLASSES)} (known: {known})")
    module, kind = _CLASSES[name].split(".")
    cls = getattr(importlib.import_module(f"adbench.data.layouts.{module}"), kind)
    known = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in known:
            remedy = nearest(option, known) or f"; it takes {', '.join(known) or 'none'}"
            raise UserError(f"layout {name} has no option '{option}'{remedy}")
    layout: Layout = cls(**options)
    return layout


def chosen_categories(layout: Layout, root: Path, wanted: str | Sequence[str]) -> list[str]:
    """Return the categories to work on: all of them, or those named, in the order named.

    Raises:
        UserError: a name that is not there.
    """
    known = layout.categories(root)
    if wanted == "all":
        return known
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        check_category(name, known, root)
    return names


__all__ = ["Layout", "chosen_categories", "get_layout"]
