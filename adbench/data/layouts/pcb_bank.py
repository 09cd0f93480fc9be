"""PCB-Bank: VisA's layout with one split file at the root, or converted to layout M."""

from __future__ import annotations

from adbench.data.layouts.visa import VisALayout


class PCBBankLayout(VisALayout):
    """As published, or converted.

    Args:
        split: name of the split file; the repository's text disagrees with it, the file is right.
    """

    def __init__(self, split: str = "1cls_clear") -> None:
        super().__init__(split=split, inner=("PCBBank", "PCB-Bank", "pcb_bank"))
