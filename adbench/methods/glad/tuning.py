"""Fine-tuning of the features that reconstructions are scored by (code, for VisA and PCB-Bank).

The MLPs of the blocks that are read learn to see normal images and their plain reconstructions
alike, and are held to the untouched features. Adaptive steps keep the untouched network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from adbench.backbones.extractor import FeatureExtractor
from adbench.errors import UserError
from adbench.methods.base import seeded_generator
from adbench.methods.glad.dino import tuning_loss
from adbench.methods.glad.settings import TuningKeys

_ORDER = 0xD140


class Pairs:
    """Normal images and their reconstructions at 8 bits, which half the memory of either needs.

    Args:
        images: batches [B, 3, H, W] in 0..1.
        remade: gives the reconstructions of a batch.
    """

    def __init__(self, images: Sequence[Tensor], remade: Callable[[Tensor], Tensor]) -> None:
        self._normal = torch.cat([_bytes(batch) for batch in images])
        self._made = torch.cat([_bytes(remade(batch)) for batch in images])

    def __len__(self) -> int:
        return len(self._normal)

    def batches(self, order: Tensor, size: int, device: torch.device) -> Iterator[list[Tensor]]:
        """Yield images and reconstructions [B, 3, H, W] in ``order``."""
        for rows in order.split(size):
            yield [part[rows].to(device).float() / 255 for part in (self._normal, self._made)]


def tuned(
    backbone: FeatureExtractor,
    pairs: Pairs,
    keys: TuningKeys,
    seed: int,
) -> FeatureExtractor:
    """Return a copy of ``backbone`` after ``keys.epochs`` passes over ``pairs``.

    Tokens of an image count as one vector; the class token, which the extractor does not return,
    is left out (the code has it among them).

    Raises:
        UserError: the backbone is not a vision transformer.
    """
    network = copy.deepcopy(backbone)
    weights = mlp_weights(network)
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.Adam(weights, lr=keys.learning_rate)
    device = weights[0].device
    for epoch in range(keys.epochs):
        generator = seeded_generator("cpu", seed, epoch, _ORDER)
        order = torch.randperm(len(pairs), generator=generator)
        steps = list(pairs.batches(order, keys.batch_size, device))
        for number, (image, made) in enumerate(steps, 1):
            loss = _loss(network, backbone, image, made, keys.weight)
            (loss / keys.accumulate).backward()  # type: ignore[no-untyped-call]
            if number % keys.accumulate == 0 or number == len(steps):
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
    return network.requires_grad_(False)


def mlp_weights(backbone: FeatureExtractor) -> list[nn.Parameter]:
    """Return the weights of the MLPs of the blocks that ``backbone`` reads.

    Raises:
        UserError: it has none: not a vision transformer.
    """
    network = getattr(backbone.network, "model", backbone.network)
    found = []
    for layer in backbone.layers:
        try:
            found += list(network.get_submodule(f"{layer}.mlp").parameters())
        except AttributeError:
            raise UserError(
                f"model.tuning.epochs trains the MLPs of a vision transformer; backbone "
                f"{backbone.name} has none in {layer}: set model.tuning.epochs=0, or "
                "backbone.name=vit_base_patch8_224.dino"
            ) from None
    return found


def _loss(
    network: FeatureExtractor,
    frozen: FeatureExtractor,
    image: Tensor,
    made: Tensor,
    weight: float,
) -> Tensor:
    both = torch.cat((image, made))
    new = [maps.chunk(2) for maps in network(both)]
    with torch.no_grad():
        old = [maps.chunk(2) for maps in frozen(both)]
    return tuning_loss(
        [pair[0] for pair in new],
        [pair[1] for pair in new],
        [pair[0] for pair in old],
        [pair[1] for pair in old],
        weight,
    )


def _bytes(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
