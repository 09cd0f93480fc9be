"""``adbench synthesize``: synthetic anomalies, or an SDAS pool, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.cli.help import group_help
from adbench.config.typed import Seed, Within, converted, declared, from_mapping, takes_text
from adbench.errors import UserError, nearest

if TYPE_CHECKING:
    from adbench.diffusion.model import SdasModel

_SDAS = "adbench.methods.sdas."
_POOL = ("strength", "steps", "form", "variance", "guidance_scale")


@dataclass(frozen=True, slots=True)
class SynthesizeKeys:
    """The verb's own keys.

    Attributes:
        n: images written.
        out: the folder; None takes one below ``run.root``.
        batch_size: images at a time, part of the request.
        run: a finished SDAS run, whose model draws whole pictures instead.
        split: normal images that defects are put on: those of training, or those held out.
        type: with a run of model=gaa, the defect to make; None makes all of them in turn.
    """

    n: Annotated[int, Within(1, 10**6)] = 100
    out: str | None = None
    batch_size: Annotated[int, Within(1, 4096)] = 16
    run: str | None = None
    split: Literal["train", "held_out"] = "train"
    type: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("out", self.out), ("run", self.run), ("type", self.type)):
            if value == "":
                raise UserError(
                    f"{name}= is empty: a {'name' if name == 'type' else 'folder'} is expected"
                )
        if self.type is not None and self.run is None:
            raise UserError(f"type={self.type} goes with run=GAA_RUN, whose defects have types")


def usage() -> str:
    """Return the text of ``adbench synthesize --help``."""
    return group_help(
        "adbench synthesize synthesis=NAME dataset=NAME n=1000 [out=FOLDER]",
        "Writes synthetic images with masks in MVTec's layout, manifest and contact sheet.\n"
        "The same command goes on where it stopped; a larger n extends a smaller one.\n"
        "       adbench synthesize run=SDAS_RUN n=1000 synthesis.strength=[0.1,0.2] [out=FOLDER]\n"
        "draws a pool of whole pictures from a trained SDAS run instead.\n"
        "       adbench synthesize run=GAA_RUN n=1000 [type=DEFECT] [out=FOLDER]\n"
        "makes further pairs from the defects that a GAA run has seen.",
        (
            "n=100                      images written",
            "out=FOLDER                 where; else outputs/synthetic/SYNTHESIS/DATASET",
            "batch_size=16              images at a time (part of the request)",
            "split=train                normals used: train | held_out (dataset.hold_out)",
            "dataset.category=NAME      one, [a,b] or all",
            "seed=0                     fixes every draw",
            "synthesis.strength=[a,b]   SDAS: strength s, drawn for every image (papers/002)",
        ),
    )


def run(words: Sequence[str]) -> int:
    """Write the images; the last line on stdout is the folder."""
    arguments = parsed_arguments(words)
    own, rest = _split(arguments.overrides)
    if own.run is not None:
        from adbench.cli.pairs import is_gaa, write_pairs_of

        folder = write_pairs_of(own, rest) if is_gaa(own.run) else _pool(own, rest)
    else:
        folder = _set(own, rest, arguments.config_dir)
    print(folder)
    return 0


def _split(words: Sequence[str]) -> tuple[SynthesizeKeys, list[str]]:
    """Return the verb's own keys and the words that the configuration is composed from."""
    hints, _ = declared(SynthesizeKeys)
    own: dict[str, Any] = {}
    rest = []
    for word in words:
        key = word.partition("=")[0]
        if key in hints:
            own[key] = _value(word, hints[key])
        else:
            rest.append(word)
    return from_mapping(SynthesizeKeys, own, ""), rest


def _value(word: str, hint: Any) -> Any:
    """Return what ``key=value`` gives: names and paths as they were typed."""
    from adbench.config.compose import parse_overrides

    key, _, value = word.partition("=")
    if takes_text(hint) and value != "null":
        return value
    (override,) = parse_overrides([word])
    if override.is_delete() or override.is_sweep_override():
        raise UserError(f"'{word}': write {key}=VALUE, one value")
    return override.value()


def _set(own: SynthesizeKeys, rest: list[str], config_dir: Path | None) -> Path:
    from adbench.config.compose import compose_config
    from adbench.config.schema import settings

    config = compose_config("train", rest, config_dir)
    keys = settings(config)
    if config["synthesis"].get("_target_") is None:
        raise UserError("synthesis=none makes nothing; choose another: adbench synthesize --help")
    folder = _target(own.out, Path(keys.run.root), config["synthesis"], keys.dataset.name)

    from adbench.data.opening import chosen_categories, read_samples
    from adbench.synthesis.writer import write_synthetic
    from adbench.training.build import build_synthesis
    from adbench.training.data import build_datamodule, check_data, depth_of

    samples = read_samples(keys.dataset, chosen_categories(keys.dataset))
    check_data(samples, say, bits=depth_of(keys.dataset, samples))
    synthesizer = build_synthesis(config["synthesis"])
    assert synthesizer is not None
    write_synthetic(
        synthesizer,
        build_datamodule(keys, samples),
        folder,
        n=own.n,
        seed=keys.seed,
        parameters=config["synthesis"],
        batch_size=own.batch_size,
        split=own.split,
        say=say,
    )
    return folder


def _target(out: str | None, root: Path, synthesis: Mapping[str, Any], dataset: str) -> Path:
    """Return the folder of the set: ``out`` as given, else one that lies below ``root``."""
    if out is not None:
        return Path(out).expanduser()
    name = converted(synthesis.get("name"), str, "synthesis.name")
    for key, part in (("synthesis.name", name), ("dataset.name", dataset)):
        if part in {"", ".", ".."} or "/" in part or "\\" in part:
            raise UserError(f"{key}={part} cannot name a folder below {root}; set out=FOLDER")
    return root.expanduser() / "synthetic" / name / dataset


def _pool(own: SynthesizeKeys, rest: list[str]) -> Path:
    from adbench.diffusion.settings import PoolKeys

    if own.split != "train":
        raise UserError("split= does not go with run=: an SDAS model draws whole pictures")
    if own.type is not None:
        raise UserError(f"type={own.type} goes with a run of model=gaa; {own.run} is another")
    given, seed = _drawing(rest)
    keys = from_mapping(PoolKeys, {"n": own.n, "batch_size": own.batch_size, **given}, "synthesis")
    folder = Path(str(own.run)).expanduser()
    target = Path(own.out).expanduser() if own.out is not None else folder / "pool"

    from adbench.runs.alone import holds_nothing, written_alone

    if not (target / "pool.json").is_file() and not holds_nothing(target):
        raise UserError(f"out={target} is not empty and no pool: choose another folder")
    model = _sdas_model(folder)

    from adbench.diffusion.pool import make_pool

    with written_alone(target, "out"):
        make_pool(model, target, keys, seed=seed, say=say)
    return target


def _drawing(rest: Sequence[str]) -> tuple[dict[str, Any], int]:
    """Return the keys of the pool and the seed that are typed beside ``run=``."""
    from adbench.config.compose import parse_overrides
    from adbench.diffusion.settings import PoolKeys

    hints, _ = declared(PoolKeys)
    given: dict[str, Any] = {}
    seed = 0
    for override in parse_overrides(rest):
        key = override.key_or_group
        name = key.removeprefix("synthesis.")
        if key == "seed":
            seed = converted(_value(override.input_line, Seed), Seed, "seed")
        elif key == f"synthesis.{name}" and name in _POOL:
            given[name] = _value(override.input_line, hints[name])
        elif key != "synthesis" or override.value() != "sdas":
            known = ["seed", *[f"synthesis.{name}" for name in _POOL]]
            raise UserError(f"'{override.input_line}' does not go with run={nearest(key, known)}")
    return given, seed


def _sdas_model(folder: Path) -> SdasModel:
    from adbench.runs.folder import open_run

    run, config = open_run(folder)
    section = config.get("model") if isinstance(config, Mapping) else None
    target = str(section.get("_target_") or "") if isinstance(section, Mapping) else ""
    other = UserError(f"run={folder} is no run of model=sdas ({target or 'its model is unknown'})")
    if not target or (target.startswith("adbench.") and not target.startswith(_SDAS)):
        raise other
    if not (run.path / "detector.yaml").is_file():
        raise UserError(f"run={folder} holds no trained detector: it has not finished")

    from adbench.diffusion.model import SdasModel
    from adbench.methods.base import load_detector

    model = getattr(load_detector(run.path), "model", None)
    if not isinstance(model, SdasModel):
        raise other
    return model
