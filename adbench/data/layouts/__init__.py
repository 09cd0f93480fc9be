"""Layouts by name: how each kind of data set is read as it lies on disk."""

from __future__ import annotations

import importlib
from typing import Any

from adbench.config.targets import imported
from adbench.config.typed import checked
from adbench.data.layouts.base import Layout
from adbench.errors import UserError, nearest

_CLASSES = {
    "mvtec": "mvtec.MVTecLayout",
    "mvtec_loco": "mvtec_loco.MVTecLocoLayout",
    "mvtec_ad2": "mvtec_ad2.MVTecAD2Layout",
    "visa": "visa.VisALayout",
    "btad": "btad.BTADLayout",
    "mad_man": "mad.MADManLayout",
    "mad_sys": "mad.MADSysLayout",
    "pcb_bank": "pcb_bank.PCBBankLayout",
    "folder": "folder.FolderLayout",
    "pictures": "pictures.PicturesLayout",
    "csv": "csv_file.CsvLayout",
    "demo": "demo.DemoLayout",
}


def get_layout(name: str, /, **options: Any) -> Layout:
    """Return the layout ``name`` built with its options.

    A third party's is named as ``package.module.Class``, of a declared package.

    Raises:
        UserError: no such layout, or no such option.
    """
    if "." in name:
        own = imported(name, Layout, "dataset.layout")
        found: Layout = own(**checked(own, options, "dataset.options"))
        return found
    if name not in _CLASSES:
        known = ", ".join(sorted(_CLASSES))
        raise UserError(f"no layout '{name}'{nearest(name, _CLASSES)} (known: {known})")
    module, kind = _CLASSES[name].split(".")
    cls = getattr(importlib.import_module(f"adbench.data.layouts.{module}"), kind)
    layout: Layout = cls(**checked(cls, options, "dataset.options"))
    return layout


__all__ = ["Layout", "get_layout"]
