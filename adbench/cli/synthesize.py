"""``adbench synthesize``: synthetic anomalies, or an SDAS pool, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.cli.help import group_help
from adbench.errors import UserError, nearest

_OWN = {"n": 100, "out": None, "batch_size": 16, "run": None}
_POOL = ("strength", "steps", "form", "variance", "guidance_scale")


def usage() -> str:
    """Return the text of ``adbench synthesize --help``."""
    return group_help(
        "adbench synthesize synthesis=NAME dataset=NAME n=1000 [out=FOLDER]",
        "Writes synthetic images with masks in MVTec's layout, manifest and contact sheet.\n"
        "The same command goes on where it stopped; a larger n extends a smaller one.\n"
        "       adbench synthesize run=SDAS_RUN n=1000 synthesis.strength=[0.1,0.2] [out=FOLDER]\n"
        "draws a pool of whole pictures from a trained SDAS run instead.",
        (
            "n=100                      images written",
            "out=FOLDER                 where; else outputs/synthetic/SYNTHESIS/DATASET",
            "batch_size=16              images at a time (part of the request)",
            "dataset.category=NAME      one, [a,b] or all",
            "seed=0                     fixes every draw",
            "synthesis.strength=[a,b]   SDAS: strength s, drawn for every image (papers/002)",
        ),
    )


def run(words: Sequence[str]) -> int:
    """Write the images; the last line on stdout is the folder."""
    arguments = parsed_arguments(words)
    own, rest = _split(arguments.overrides)
    folder = _pool(own, rest) if own["run"] else _set(own, rest, arguments.config_dir)
    print(folder)
    return 0


def _split(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    from adbench.config.compose import parse_overrides

    own: dict[str, Any] = dict(_OWN)
    rest = []
    for override in parse_overrides(overrides):
        if override.key_or_group in own:
            own[override.key_or_group] = override.value()
        else:
            rest.append(override.input_line)
    for name in ("n", "batch_size"):
        if not isinstance(own[name], int) or own[name] < 1:
            raise UserError(f"{name}={own[name]}: a positive whole number is expected")
    return own, rest


def _set(own: dict[str, Any], rest: list[str], config_dir: Path | None) -> Path:
    from adbench.config.compose import compose_config
    from adbench.config.schema import settings
    from adbench.data.opening import chosen_categories, read_samples
    from adbench.training.build import build_synthesis
    from adbench.training.data import build_datamodule, check_data

    config = compose_config("train", rest, config_dir)
    keys = settings(config)
    synthesizer = build_synthesis(config["synthesis"])
    if synthesizer is None:
        raise UserError("synthesis=none makes nothing; choose another: adbench synthesize --help")
    samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
    check_data(samples, say)
    from adbench.synthesis.writer import write_synthetic

    name = config["synthesis"]["name"]
    folder = Path(own["out"] or Path(keys.run.root) / "synthetic" / name / keys.dataset.name)
    write_synthetic(
        synthesizer,
        build_datamodule(keys, samples),
        folder,
        n=own["n"],
        seed=keys.seed,
        parameters=config["synthesis"],
        batch_size=own["batch_size"],
        say=say,
    )
    return folder


def _pool(own: dict[str, Any], rest: list[str]) -> Path:
    from adbench.config.compose import parse_overrides
    from adbench.diffusion.pool import PoolKeys, make_pool
    from adbench.methods.base import load_detector
    from adbench.runs.folder import open_run

    given: dict[str, Any] = {}
    seed = 0
    for override in parse_overrides(rest):
        key, value = override.key_or_group, override.value()
        if key == "seed":
            seed = int(value)
        elif key.startswith("synthesis.") and key.removeprefix("synthesis.") in _POOL:
            given[key.removeprefix("synthesis.")] = value
        elif key != "synthesis":
            known = ["seed", *[f"synthesis.{name}" for name in _POOL]]
            raise UserError(f"'{key}' does not go with run={nearest(key, known)}")
    if isinstance(given.get("strength"), list):
        given["strength"] = tuple(given["strength"])
    folder, config = open_run(str(own["run"]))
    detector = load_detector(folder.path)
    model = getattr(detector, "model", None)
    if model is None:
        raise UserError(f"{folder.path} is a run of {config['model']['name']}, not of sdas")
    target = Path(own["out"] or folder.path / "pool")
    keys = PoolKeys(n=own["n"], batch_size=own["batch_size"], **given)
    make_pool(model, target, keys, seed=seed, say=say)
    return target
