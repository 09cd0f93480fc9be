"""A synthesizer: one round dot of one colour in every picture."""

import torch

from adbench import Synthesizer, Synthetic


class Dots(Synthesizer):
    """Dots whose radius is a share of the shorter side, drawn from ``smallest`` to ``largest``."""

    def __init__(self, smallest=0.05, largest=0.15):
        self.smallest, self.largest = smallest, largest

    def __call__(self, image, *, foreground=None, source=None, generator):
        count, _, height, width = image.shape

        def drawn(*shape):
            return torch.rand(shape, generator=generator, device=image.device)

        radius = self.smallest + (self.largest - self.smallest) * drawn(count, 1, 1, 1)
        radius = radius * min(height, width)
        y = torch.arange(height, device=image.device).view(1, 1, -1, 1)
        x = torch.arange(width, device=image.device).view(1, 1, 1, -1)
        row, column = drawn(count, 1, 1, 1) * height, drawn(count, 1, 1, 1) * width
        mask = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        if foreground is not None:
            mask = mask & foreground
        colour = drawn(count, 3, 1, 1).expand_as(image) if source is None else source
        made = torch.where(mask, colour, image)
        return Synthetic(made, mask, torch.ones_like(image[:, 0, 0, 0]), mask.flatten(1).any(1))
