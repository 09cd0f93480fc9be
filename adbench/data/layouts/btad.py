"""BTAD: layout M below ``BTech_Dataset_transformed``, ``ok`` and ``ko``, masks of any suffix."""

from __future__ import annotations

from adbench.data.layouts.mvtec import MVTecLayout


class BTADLayout(MVTecLayout):
    """As the archive unpacks: bmp and png images, and category 03's masks are bmp."""

    def __init__(self) -> None:
        super().__init__(inner=("BTech_Dataset_transformed",))
