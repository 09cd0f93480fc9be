"""Preconditioning by channel: the network says what the best linear estimate leaves over."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from adbench.diffusion.schedule import Schedule, entries


class Factors(NamedTuple):
    """Of a noisy latent z = sqrt(a) x + sqrt(1 - a) n whose channels of x have deviation s.

    Attributes:
        into: times z is what the network sees: deviation 1 in every channel.
        skip: times z is the linear estimate of x of least error, sqrt(a) s^2 / (a s^2 + 1 - a).
        out: times the network's answer is what that leaves over: its deviation,
            s sqrt((1 - a) / (a s^2 + 1 - a)).
    """

    into: Tensor
    skip: Tensor
    out: Tensor


def factors(schedule: Schedule, deviation: Tensor, time: Tensor) -> Factors:
    """Return factors [B, C, 1, 1] at levels [B] for channels of ``deviation`` [1, C, 1, 1].

    Karras et al. 2022 (EDM, Table 1) with the deviation of each channel in the place of the one
    sigma_data. A patch PCA's channels differ sixtyfold: a network of noise or v errs alike in all
    of them, which is white noise in the picture until it is trained very well; here an untrained
    network already errs by no more than each channel varies.
    """
    signal = entries(schedule.alphas_cumprod, time, deviation)
    total = signal * deviation**2 + 1 - signal
    return Factors(
        total.rsqrt(),
        signal.sqrt() * deviation**2 / total,
        deviation * ((1 - signal) / total).sqrt(),
    )
