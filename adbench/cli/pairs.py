"""``adbench synthesize run=GAA_RUN``: further pairs from a finished run of model=gaa."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.cli.console import say
from adbench.config.typed import Seed, converted
from adbench.errors import UserError, nearest

if TYPE_CHECKING:
    from adbench.cli.synthesize import SynthesizeKeys

_GAA = "adbench.methods.gaa."


def is_gaa(folder: str) -> bool:
    """Whether a folder is a run of model=gaa; what is none is refused by who opens it."""
    from adbench.runs.folder import open_run

    try:
        _, config = open_run(Path(folder).expanduser())
    except UserError:
        return False
    section = config.get("model")
    target = section.get("_target_") if isinstance(section, Mapping) else None
    return str(target or "").startswith(_GAA)


def write_pairs_of(own: SynthesizeKeys, rest: Sequence[str]) -> Path:
    """Write pairs; return their folder.

    Raises:
        UserError: the run has not come as far as its pairs, or a word does not go with ``run=``.
    """
    from adbench.config.schema import settings
    from adbench.runs.folder import open_run

    if own.split != "train":
        raise UserError("split= does not go with run=: a GAA run has its own canvases")
    seed = _seed(rest)
    run, config = open_run(Path(str(own.run)).expanduser())
    keys = settings(config)
    if not (run.path / "stages" / "filter" / "stage.json").is_file():
        raise UserError(f"run={own.run} has no pairs yet: train it, at least until=filter")
    name = f"pairs-{own.type}" if own.type is not None else "pairs"
    target = Path(own.out).expanduser() if own.out is not None else run.path / name

    from adbench.data.opening import chosen_categories, read_samples
    from adbench.methods.gaa.writing import write_pairs
    from adbench.training.build import build_module
    from adbench.training.data import build_datamodule
    from adbench.training.hardware import check_hardware
    from adbench.training.testing import unseen

    check_hardware(keys.hardware)
    samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
    samples = unseen(run, samples, elsewhere=False, say=say)
    data = build_datamodule(keys, samples).without_test()
    module: Any = build_module(config, keys)
    write_pairs(
        module.chain(),
        run.path,
        data,
        target,
        n=own.n,
        asked=own.type,
        seed=seed,
        say=say,
    )
    return target


def _seed(rest: Sequence[str]) -> int:
    from adbench.config.compose import parse_overrides

    seed = 0
    for override in parse_overrides(list(rest)):
        if override.key_or_group != "seed":
            near = nearest(override.key_or_group, ["seed", "n", "type", "out"])
            raise UserError(f"'{override.input_line}' does not go with run={near}")
        seed = converted(override.value(), Seed, "seed")
    return seed
