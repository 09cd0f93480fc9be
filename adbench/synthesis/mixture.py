"""Several synthesizers at once: each image is given to one of them, drawn by weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from adbench.config.targets import imported
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.synthesis.base import Synthesizer, Synthetic
from adbench.synthesis.perlin import uniform
from adbench.synthesis.settings import MixtureKeys, keys_below

if TYPE_CHECKING:
    from adbench.data.datamodule import DataModule


def built(name: str, section: Mapping[str, Any] | Synthesizer) -> Synthesizer | None:
    """Return the synthesizer of a section with ``_target_``; None for one without: stay normal.

    Raises:
        UserError: the target cannot be imported, is no synthesizer, or refuses a key.
    """
    if isinstance(section, Synthesizer):
        return section
    where = f"synthesis.components.{name}"
    if not isinstance(section, Mapping):
        raise UserError(f"{where}={section}: a section of the group synthesis is expected")
    if section.get("_target_") is None:
        return None
    keys = {k: v for k, v in section.items() if k not in ("_target_", "name")}
    kind = imported(section["_target_"], Synthesizer, f"{where}._target_")
    with keys_below(where):
        try:
            return kind(**keys)
        except TypeError as error:  # a third party's constructor
            raise UserError(f"{where}: {error}") from error


class Mixture(Synthesizer):
    """Gives each image to one component, drawn by weight; each keeps its own foreground.

    Args:
        keys: those of MixtureKeys.
    """

    def __init__(self, **keys: Any) -> None:
        made = from_mapping(MixtureKeys, keys, "synthesis")
        self.components = {name: built(name, each) for name, each in made.components.items()}
        total = sum(made.weights.values())
        self.shares = [made.weights[name] / total for name in self.components]

    @property
    def record(self) -> dict[str, Any]:
        return {name: {} if each is None else each.record for name, each in self.components.items()}

    def prepare(self, datamodule: DataModule) -> None:
        for name, component in self.components.items():
            if component is not None:
                with keys_below(f"synthesis.components.{name}"):
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
