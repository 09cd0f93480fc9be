"""Distance to kept normal features, beside the discriminator (ours, not the paper's).

A discriminator of few steps knows what was made for it; a bank knows what normal is. Both maps
are brought to one scale, that of the normal images themselves, and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adbench.methods.base import seeded_generator
from adbench.methods.coreset import greedy_coreset, projected
from adbench.methods.nearest import Bank, chunked_nearest

FLOOR = 0.1  # variances below this share of the largest count as that much
_CANDIDATES = 1 << 18  # most features the coreset is chosen from
_LOOKED_AT = 16  # normal images by which the maps are brought to one scale
_PROJECTION = 128


class NormalBank(nn.Module):
    """Whitened features of normal images, and the scales of both maps.

    Args:
        size: features kept, M.
        width: their columns, C.
        share: of the discriminator's map beside the distance.
    """

    shift: Tensor
    white: Tensor
    scales: Tensor
    image: Tensor

    def __init__(self, size: int, width: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.bank = Bank(size, width)
        self.register_buffer("shift", torch.zeros(width))
        self.register_buffer("white", torch.eye(width))
        self.register_buffer("scales", torch.tensor([0.0, 1.0, 0.0, 1.0]))
        self.register_buffer("image", torch.zeros(0, dtype=torch.long), persistent=False)

    def whitened(self, rows: Tensor) -> Tensor:
        """Return features [N, C] in units of their principal components' deviations."""
        return (rows - self.shift) @ self.white

    def distances(self, rows: Tensor) -> Tensor:
        """Return the distance [N] of features [N, C] to the nearest kept."""
        return self.bank.nearest(self.whitened(rows)).sqrt()

    def scaled(self, distance: Tensor) -> Tensor:
        """Return distances on the scale of the normals."""
        low, span = self.scales[:2].unbind()
        return (distance - low) / span

    def joined(self, distance: Tensor, logits: Tensor) -> Tensor:
        """Return both maps on one scale, added."""
        own_low, own_span = self.scales[2:].unbind()
        return self.scaled(distance) + self.share * (logits - own_low) / own_span

    @torch.no_grad()
    def fill(self, rows: Callable[[Tensor], Tensor], images: int, seed: int) -> None:
        """Choose the features kept.

        Args:
            rows: index [B] of normal images -> their features [B, P, C].
            images: number of normal images.
            seed: of all draws.
        """

        def each() -> Iterator[Tensor]:  # one image at a time: all may be larger than the memory
            return (rows(torch.tensor([number]))[0] for number in range(images))

        self._whiten(each)
        generator = seeded_generator("cpu", seed, 0)
        share = min(1.0, _CANDIDATES / (images * len(next(each()))))
        candidates, image = [], []
        for number, found in enumerate(each()):
            count = max(int(share * len(found)), 1)
            drawn = torch.randperm(len(found), generator=generator)[:count]
            candidates.append(self.whitened(found[drawn.to(found.device)]).half())
            image.append(torch.full((count,), number))
        points = torch.cat(candidates)
        size = min(len(self.bank), len(points))
        kept = greedy_coreset(projected(points, _PROJECTION, generator), size, 0)
        self.bank.set(points[kept])
        self.image = torch.cat(image)[kept.cpu()]

    def _whiten(self, each: Callable[[], Iterator[Tensor]]) -> None:
        total, count = torch.zeros_like(self.shift, dtype=torch.float64), 0
        for found in each():
            total += found.sum(0).double()
            count += len(found)
        self.shift.copy_(total / count)
        covariance = torch.zeros_like(self.white, dtype=torch.float64)
        for found in each():
            centred = found - self.shift
            covariance += (centred.mT @ centred).double()
        values, vectors = torch.linalg.eigh(covariance / count)
        floor = values + FLOOR * values[-1]
        self.white.copy_(vectors * floor.clamp_min(1e-12).rsqrt())

    @torch.no_grad()
    def settle(
        self,
        rows: Callable[[Tensor], Tensor],
        images: int,
        logits: Callable[[Tensor], Tensor] | None,
        trust: float = 1.0,
    ) -> None:
        """Set the scales by normal images, each compared with what was kept of the others.

        Zero is the mean of a map, one what the largest hundredth of an image comes to on average.

        Args:
            rows, images: as ``fill``.
            logits: features [P, C] -> the discriminator's logits [P]; None: there is none.
            trust: above 0; what the discriminator's share is multiplied by (``trust_in``).
        """
        distances, own = [], []
        for number in torch.linspace(0, images - 1, min(images, _LOOKED_AT)).long():
            found = rows(number[None])[0]
            others = self.bank.exact[(self.image != number).to(found.device)]
            if len(others):
                distances.append(chunked_nearest(self.whitened(found), others).sqrt())
            own.append(torch.zeros(len(found)) if logits is None else logits(found))
        low, span = _scale(own)
        self.scales.copy_(torch.tensor([*_scale(distances or own), low, span / trust]))


def trust_in(images: int, prior: float) -> float:
    """Return how far a discriminator of ``images`` normal images is trusted, above 0 to 1.

    The bank is asked without an image's own features, the discriminator was trained on them: on
    images that it has not seen its largest values spread about (n + 25) / n times as far. Once for
    that scale, and once because what is so unsure is worth as much less.
    """
    return (images / (images + prior)) ** 2


def _scale(maps: list[Tensor]) -> tuple[float, float]:
    """Return (mean, what the largest hundredth lies above it on average) of maps, [P] each."""
    every = torch.stack(maps)
    count = max(every.shape[1] // 100, 1)
    low = float(every.mean())
    return low, max(float(every.topk(count, 1).values.mean()) - low, 1e-6)
