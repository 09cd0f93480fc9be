"""``adbench test-method TARGET``."""

from __future__ import annotations

import importlib
import inspect
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from adbench.cli.arguments import parsed_arguments
from adbench.cli.console import say
from adbench.config.locate import options
from adbench.config.targets import declare_packages
from adbench.errors import UserError, nearest

HELP = """usage: adbench test-method package.module.Class [key=value ...]
       adbench test-method NAME [key=value ...] [--config-dir FOLDER]

Runs the conformance suite on somebody's own method (an AnomalyModule) or synthesizer, on sixteen
tiny pictures that it makes: shapes, equal seeds, batch invariance, resuming, no test image seen in
training, what was saved is what was measured, an export that agrees.

A class is looked for where Python looks, and in the current folder. NAME is a model of conf/model
or of FOLDER/model. Further words make it small: backbone=bundled dataset.image_size=64
model.width=8. Exit code 1 where a check fails, 2 where nothing can be checked."""

# what adbench gives to a module's constructor, or settles itself: no keys of its yaml
_GIVEN = ("self", "backbone", "synthesis", "diffusion", "image_size", "seed")


def run(words: Sequence[str]) -> int:
    """Run the suite; one line a check on stdout, the verdict last."""
    if not words or words[0].startswith("-") or "=" in words[0]:
        raise UserError("test which method? adbench test-method package.module.Class")
    target, rest = words[0], words[1:]
    arguments = parsed_arguments(rest)
    if arguments.multirun:
        raise UserError("test-method takes no --multirun")
    with tempfile.TemporaryDirectory(prefix="adbench-test-method-") as folder:
        if "." not in target:
            known = options("model", arguments.config_dir)
            if target not in known:
                raise UserError(
                    f"no model '{target}'{nearest(target, known)}; a class is named as "
                    "package.module.Class"
                )
            words = [f"model={target}", *arguments.overrides]
            return _method(target, words, arguments.config_dir, Path(folder))
        kind = _found(target)
        from adbench.methods.base import AnomalyModule
        from adbench.synthesis.base import Synthesizer

        if issubclass(kind, Synthesizer):
            return _synthesizer(target, kind, arguments.overrides)
        if not issubclass(kind, AnomalyModule):
            raise UserError(f"{target} is neither an AnomalyModule nor a Synthesizer")
        if arguments.config_dir:
            raise UserError("with --config-dir a method is named as its yaml is: NAME, no class")
        conf = _yaml_of(target, kind, Path(folder) / "conf")
        return _method(target, ["model=under_test", *arguments.overrides], conf, Path(folder))


def _found(target: str) -> type[Any]:
    """Import the class that the command names: whoever names it asks for its code to be run."""
    module, _, name = target.rpartition(".")
    declare_packages([target.split(".")[0]])
    sys.path.append(str(Path.cwd()))
    try:
        kind = getattr(importlib.import_module(module), name)
    except Exception as error:  # a stranger's module may raise anything
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{target} cannot be imported ({type(error).__name__}: {told})") from error
    if not isinstance(kind, type):
        raise UserError(f"{target} is no class")
    return kind


def _yaml_of(target: str, kind: type[Any], folder: Path) -> Path:
    """Write the method's yaml, its constructor's defaults as keys; return the --config-dir."""
    keys = {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in _GIVEN and isinstance(parameter.default, str | int | float | bool | None)
    }
    document = {"model": {"_target_": target, "name": "under_test", **keys}}
    path = folder / "model" / "under_test.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n{yaml.safe_dump(document, sort_keys=False)}")
    return folder


def _method(target: str, words: list[str], conf: Path | None, folder: Path) -> int:
    from adbench.conformance import CHECKS, Subject, tiny_data

    subject = Subject(words, tiny_data(folder / "data"), folder / "runs", conf)
    subject.configured(folder)  # a word that cannot be understood is refused, not reported
    say(f"{target}: {len(CHECKS)} checks on tiny pictures, one training for most of them")
    return _told(target, CHECKS, subject)


def _synthesizer(target: str, kind: type[Any], words: Sequence[str]) -> int:
    from adbench.conformance import SYNTHESIS_CHECKS

    keys = dict(_pairs(words))
    try:
        made = kind(**keys)
    except Exception as error:  # as above
        told = " ".join(str(error).split())[:200]
        raise UserError(f"{target} cannot be built ({type(error).__name__}: {told})") from error
    return _told(target, SYNTHESIS_CHECKS, made)


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for word in words:
        key, _, value = word.partition("=")
        if not key.startswith("synthesis."):
            raise UserError(f"'{key}': keys of a synthesizer are written synthesis.KEY=VALUE")
        yield key.partition(".")[2], yaml.safe_load(value)


def _told(target: str, checks: Sequence[Callable[[Any], None]], subject: Any) -> int:
    from adbench.conformance import answers

    failed = 0
    for answer in answers(checks, subject):
        print(f"{answer.verdict:<7} {answer.check} ({answer.seconds:.1f} s)", flush=True)
        if answer.told:
            print(f"        {answer.told}", flush=True)
        failed += answer.verdict == "FAILED"
    print(f"{target}: {f'{failed} of {len(checks)} checks failed' if failed else 'conforms'}")
    return 1 if failed else 0
