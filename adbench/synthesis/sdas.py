"""SDAS as a synthesizer: a pool that the run itself draws, or one that lies on disk."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar

from adbench.diffusion import settings as sdas
from adbench.synthesis.pool import Pool
from adbench.synthesis.settings import PoolKeys, SdasPoolKeys


class SdasPool(Pool):
    """Blends images of an SDAS pool into normal ones (papers/002, Sec. 3.1).

    With ``root`` the pool lies there already. Without, a method that knows stages trains the
    model and draws the pool before its own, from ``fit_keys`` and ``pool_keys``, and sets
    ``stage_folder``.

    Args:
        keys: those of SdasPoolKeys.

    Attributes:
        own_stages: whether the pool must be made by stages of the run.
        fit_keys, pool_keys: what ``FitKeys`` and ``PoolKeys`` of the diffusion room are made of.
    """

    kind: ClassVar[type[PoolKeys]] = SdasPoolKeys

    def __init__(self, **keys: Any) -> None:
        super().__init__(**keys)
        made = self.keys
        assert isinstance(made, SdasPoolKeys)
        self.own_stages = made.root is None
        self.fit_keys = _values(made.fit, sdas.FitKeys)
        self.pool_keys = _values(made, sdas.PoolKeys)


def _values(keys: Any, kind: Any) -> dict[str, Any]:
    return {item.name: getattr(keys, item.name) for item in fields(kind)}
