"""The checks of a synthesizer, on eight smooth pictures of 64 px."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from adbench.synthesis.base import Synthesizer, Synthetic

Check = Callable[[Synthesizer], None]


def _images() -> Tensor:
    coarse = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(coarse, size=(64, 64), mode="bilinear")


def _made(synthesizer: Synthesizer, seed: int, foreground: Tensor | None = None) -> Synthetic:
    generator = torch.Generator().manual_seed(seed)
    return synthesizer(_images(), foreground=foreground, generator=generator)


def _holds(condition: object, otherwise: str) -> None:
    if not condition:
        raise AssertionError(otherwise)


def shapes_types_and_ranges(synthesizer: Synthesizer) -> None:
    """Image, mask, strength and applied have the shapes, types and ranges of the contract"""
    found = _made(synthesizer, 0)
    wanted = {
        "image": ((8, 3, 64, 64), torch.float32),
        "mask": ((8, 1, 64, 64), torch.bool),
        "strength": ((8,), torch.float32),
        "applied": ((8,), torch.bool),
    }
    for name, (shape, kind) in wanted.items():
        value = getattr(found, name)
        _holds(value.shape == shape, f"{name} is {tuple(value.shape)}, not {shape}")
        _holds(value.dtype == kind, f"{name} is {value.dtype}, not {kind}")
    for name in ("image", "strength"):
        value = getattr(found, name)
        _holds(value.min() >= 0 and value.max() <= 1, f"{name} leaves 0..1")
    _holds(torch.equal(found.applied, found.mask.flatten(1).any(1)), "applied is not mask.any()")


def equal_outside_and_changed_inside(synthesizer: Synthesizer) -> None:
    """Pixels outside of the mask are the input's, bit for bit; most pictures get a defect"""
    image, found = _images(), _made(synthesizer, 3)
    outside = ~found.mask.expand_as(image)
    _holds(torch.equal(found.image[outside], image[outside]), "pixels outside of the mask changed")
    _holds(found.applied.float().mean() >= 0.5, "fewer than half of the pictures got a defect")
    _holds(not torch.equal(found.image, image), "nothing changed")


def equal_generators_give_equal_results(synthesizer: Synthesizer) -> None:
    """Equal states of the generator give equal results, others other ones"""
    first, second, other = _made(synthesizer, 5), _made(synthesizer, 5), _made(synthesizer, 6)
    equal = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    _holds(equal, "two calls with equal generators differ")
    _holds(not torch.equal(first.mask, other.mask), "another seed gave the same masks")


def defects_lie_in_the_foreground(synthesizer: Synthesizer) -> None:
    """Defects lie where the foreground allows them"""
    foreground = torch.zeros(8, 1, 64, 64, dtype=torch.bool)
    foreground[..., 16:48, 16:48] = True
    found = _made(synthesizer, 0, foreground)
    _holds(not (found.mask & ~foreground).any(), "a defect lies outside of the foreground")
    _holds(found.applied.any(), "no picture got a defect")


SYNTHESIS_CHECKS: tuple[Check, ...] = (
    shapes_types_and_ranges,
    equal_outside_and_changed_inside,
    equal_generators_give_equal_results,
    defects_lie_in_the_foreground,
)
