"""SDAS as a synthesizer: a pool that the run itself draws, or one that lies on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adbench.synthesis.pool import Pool


class SdasPool(Pool):
    """Blends images of an SDAS pool into normal ones (papers/002, Sec. 3.1 and 3.2).

    With ``root`` the pool lies there already. Without, a method that knows stages trains the
    model and draws the pool before its own, from ``fit_keys`` and ``pool_keys``, and sets
    ``stage_folder``; diffusion is no business of this room.

    Args:
        root: a filled pool; None: the run's stage ``pool``.
        fit: keys of ``adbench.diffusion.fitting.FitKeys``.
        n, strength, steps, form, variance, guidance_scale, batch_size: keys of
            ``adbench.diffusion.pool.PoolKeys``.
        keys: of Pool.

    Attributes:
        own_stages: whether the pool must be made by stages of the run.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        fit: Mapping[str, Any] | None = None,
        n: int = 1000,
        strength: float | Sequence[float] = (0.1, 0.2),
        steps: int = 20,
        form: str = "ancestral",
        variance: str = "learned",
        guidance_scale: float = 0.0,
        batch_size: int = 16,
        **keys: Any,
    ) -> None:
        super().__init__(root=root, **keys)
        self.own_stages = root is None
        self.fit_keys: dict[str, Any] = dict(fit or {})
        self.pool_keys: dict[str, Any] = {
            "n": n,
            "strength": strength if isinstance(strength, int | float) else tuple(strength),
            "steps": steps,
            "form": form,
            "variance": variance,
            "guidance_scale": guidance_scale,
            "batch_size": batch_size,
        }
