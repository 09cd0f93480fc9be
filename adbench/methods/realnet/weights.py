"""Names of the authors' parameters and ours, for the parts they trained."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# The reconstruction U-Net keeps the authors' names; these are the discriminator's.
_NAMES = (
    (r"decoder1\.0\._layers\.(\d+)\._block\.1\.", r"discriminator.layers.\1.spatial."),
    (r"decoder1\.0\._layers\.(\d+)\._block\.3\.", r"discriminator.layers.\1.pointwise."),
    (r"decoder1\.1\.", "discriminator.entry."),
    (r"decoder1\.2\.", "discriminator.norm."),
    (r"decoder2\.", "discriminator.narrow."),
    (r"decoder3\.", "discriminator.head."),
    (r"bn_idx\.(running_mean|running_var)$", r"residuals.\1"),
)
_DROPPED = ("bn_idx.num_batches_tracked",)


def discriminator_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the authors' selection and discriminator weights under the detector's names.

    Raises:
        KeyError: a name that belongs to neither.
    """
    return {_renamed(name): value for name, value in state.items() if name not in _DROPPED}


def _renamed(name: str) -> str:
    for pattern, ours in _NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name)
    raise KeyError(f"{name} is no parameter of the authors' selection or discriminator")
