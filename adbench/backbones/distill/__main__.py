"""``python -m adbench.backbones.distill key=value``: keys of ``Recipe``, and of the machine.

folder=outputs/distill device=cpu|cuda bfloat16=true|false threads=2
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from adbench.errors import UserError


def main(words: Sequence[str]) -> int:
    """Train; print the weights file last. 2: a request that cannot be carried out."""
    if not words or words[0] in ("-h", "--help"):
        from adbench.backbones.distill.recipe import Recipe

        print(__doc__, Recipe.__doc__, sep="\n")
        return 0
    try:
        print(_trained(words))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _trained(words: Sequence[str]) -> str:
    import torch

    from adbench.backbones.distill import distill

    keys = _parsed(words)
    device = keys.pop("device", "cuda" if torch.cuda.is_available() else "cpu")
    folder, bfloat16 = keys.pop("folder", "outputs/distill"), keys.pop("bfloat16", None)
    if (threads := keys.pop("threads", None)) is not None:
        torch.set_num_threads(threads)
    return str(distill(keys, folder, device=device, bfloat16=bfloat16))


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    keys = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise UserError(f"{word}: key=value is expected")
        keys[key] = yaml.load(value, _Loader) if value else None
    return keys


class _Loader(yaml.SafeLoader):
    """Reads 2e-3 as a number, as YAML 1.2 and Hydra do."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
