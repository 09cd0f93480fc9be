"""Several synthesizers at once: each image is given to one of them, drawn by weight."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from adbench.errors import UserError, nearest
from adbench.synthesis.base import Synthesizer, Synthetic
from adbench.synthesis.perlin import uniform

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


def built(name: str, section: Mapping[str, Any] | Synthesizer) -> Synthesizer | None:
    """Return the synthesizer of a section with ``_target_``; None for one without: stay normal.

    Raises:
        UserError: the target cannot be imported, is no synthesizer, or refuses a key.
    """
    if isinstance(section, Synthesizer):
        return section
    keys = {k: v for k, v in section.items() if k not in ("_target_", "name")}
    target = section.get("_target_")
    if target is None:
        return None
    where = f"synthesis.components.{name}"
    module, _, kind_name = str(target).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), kind_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where}: {target} cannot be imported ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, Synthesizer)):
        raise UserError(f"{where}: {target} is not a synthesizer")
    try:
        return kind(**keys)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


class Mixture(Synthesizer):
    """Gives each image to one component, drawn by weight; each keeps its own foreground.

    Args:
        components: name -> section of the ``synthesis`` group (or a built synthesizer); a
            section without ``_target_`` (``none``) leaves its share of images normal.
        weights: name -> weight, positive; any scale.

    Raises:
        UserError: names differ, or a weight is not positive.
    """

    def __init__(
        self,
        *,
        components: Mapping[str, Mapping[str, Any] | Synthesizer],
        weights: Mapping[str, float],
    ) -> None:
        for name in weights:
            if name not in components:
                raise UserError(
                    f"synthesis.weights: no component '{name}'{nearest(name, components)}"
                )
        for name in components:
            if not weights.get(name, 0) > 0:
                raise UserError(f"synthesis.weights.{name}: a positive weight is expected")
        self.components = {name: built(name, each) for name, each in components.items()}
        total = sum(weights.values())
        self.shares = [weights[name] / total for name in self.components]

    def prepare(self, datamodule: DataModule) -> None:
        for component in self.components.values():
            if component is not None:
                component.prepare(datamodule)

    def foreground_masks(self, index: Tensor, split: str = "train") -> Tensor | None:
        """Return one channel a component, [B, K, H, W] bool, for ``__call__`` to choose from."""
        found = [
            None if each is None else each.foreground_masks(index, split)
            for each in self.components.values()
        ]
        some = next((mask for mask in found if mask is not None), None)
        if some is None:
            return None
        return torch.cat([torch.ones_like(some) if mask is None else mask for mask in found], 1)

    def __call__(
        self,
        image: Tensor,
        *,
        foreground: Tensor | None = None,
        source: Tensor | None = None,
        generator: Generator,
    ) -> Synthetic:
        edges = torch.tensor(self.shares, device=image.device).cumsum(0)[:-1]
        choice = torch.bucketize(uniform(generator, len(image)), edges, right=True)
        made, mask = image.clone(), torch.zeros_like(image[:, :1], dtype=torch.bool)
        strength = torch.zeros(len(image), device=image.device)
        for number, component in enumerate(self.components.values()):
            rows = (choice == number).nonzero()[:, 0]
            if component is None or not len(rows):
                continue
            part = component(
                image[rows],
                foreground=_channel(foreground, number, rows),
                source=None if source is None else source[rows],
                generator=generator,
            )
            made[rows], mask[rows], strength[rows] = part.image, part.mask, part.strength
        return Synthetic(made, mask, strength, mask.flatten(1).any(1))


def _channel(foreground: Tensor | None, number: int, rows: Tensor) -> Tensor | None:
    if foreground is None:
        return None
    channel = number if foreground.shape[1] > 1 else 0
    return foreground.to(rows.device)[rows, channel : channel + 1]
