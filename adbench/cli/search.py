"""``adbench sweep sweep=optuna``: a search instead of a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adbench.cli.arguments import Arguments
from adbench.cli.console import say
from adbench.errors import UserError

if TYPE_CHECKING:
    from adbench.config.schema import LauncherKeys, SearchKeys, SpaceKeys, SweepKeys
    from adbench.sweeps.fixed import FixedConf
    from adbench.sweeps.search import Search


def run_search(
    words: Sequence[str],
    keys: SweepKeys,
    search: SearchKeys,
    arguments: Arguments,
    launcher: LauncherKeys,
) -> int:
    """Run trials until so many are complete; the last line on stdout is the search's folder."""
    from adbench.cli.sweep import dry_run, engine_of, live_display, sweep_folder
    from adbench.config.compose import compose_config, parse_overrides
    from adbench.sweeps.advisor import Advisor, default_setting
    from adbench.sweeps.fixed import FixedConf
    from adbench.sweeps.grid import split_overrides
    from adbench.sweeps.search import Search
    from adbench.sweeps.study import Study
    from adbench.sweeps.table import SweepTable

    fixed, swept = split_overrides(parse_overrides(words))
    if swept or keys.rows:
        told = next(iter(swept or keys.rows or {}))
        raise UserError(f"{told}: a search takes one value a key; what varies stands in its space")
    config = compose_config("train", fixed, arguments.config_dir)
    space = _space(search, config)
    fixed = _with_signal(fixed, config, search)
    config = _checked(fixed, space, search, arguments)
    default = default_setting(space, compose_config("train", fixed, arguments.config_dir))
    advisor = Advisor(space, search, default if search.default else None)
    request = {"fixed": fixed, "space": _plain(space), **_deciding(search)}
    folder = sweep_folder(config["run"]["root"], keys.name or _name(request))
    if launcher.dry_run:
        return dry_run(folder, launcher, search.trials)
    study = Study(folder, request)
    table = SweepTable(folder, [], growing=True)
    engine = engine_of(folder, keys, arguments, launcher)
    with Search(
        table,
        say,
        live=live_display(bool(config["plain"])),
        study=study,
        advisor=advisor,
        fixed=fixed,
        place=_places(FixedConf(folder, arguments.config_dir)),
        running=engine.claims.held,
    ) as progress:
        table.write()
        say(f"{search.trials} trials of {len(space)} keys; {folder}/search.md tells of them")
        try:
            engine.run([], progress)
        finally:
            table.write()
        progress.write()
    return _told(progress, folder, fixed)


def _told(progress: Search, folder: Path, fixed: Sequence[str]) -> int:
    """Print what was found and write the best trial as a preset; 1 where trials are missing."""
    trials = progress.study.trials()
    best = progress.advisor.best(trials)
    _beside_test(progress, folder / "search.md")
    print((folder / "search.md").read_text(encoding="utf-8"))
    if best:
        path = folder / "experiment" / "best.yaml"
        _write_preset(path, fixed, best[0].params, f"trial {best[0].number} of {folder.name}")
        say(f"the best as a preset: adbench train --config-dir {folder} experiment=best")
    print(folder)
    done = sum(trial.state in ("complete", "pruned") for trial in trials)
    return 0 if done >= progress.keys.trials else 1


def _beside_test(progress: Search, path: Path) -> None:
    """Add what the default and the chosen trial reach on test: looked at now, chosen before."""
    from adbench.runs.files import write_text
    from adbench.sweeps.search import word_of

    trials = progress.study.trials()
    best = progress.advisor.best(trials)[:1]
    default = progress.advisor.default
    shown = {f"best (trial {trial.number})": trial for trial in best}
    if default is not None and trials and trials[0].params == dict(default):
        shown = {"default (trial 0)": trials[0], **shown}
    names = ("image_auroc", "pixel_auroc", "aupro_30")
    wanted = progress.keys.objectives
    head = ["", *wanted, *[f"test {name}" for name in names]]
    rows = []
    for name, trial in shown.items():
        entry = progress.table.entry(progress.cell(trial)).get("metrics", {})
        told = [f"{value:.4f}" for value in trial.values] or ["-"] * len(wanted)
        tested = [entry.get(key) for key in names]
        rows.append([name, *told, *["-" if v is None else word_of(round(v, 4)) for v in tested]])
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    note = "Test figures were looked at when the choice was made, and decided nothing."
    text = path.read_text(encoding="utf-8")
    write_text(path, text + "\n" + "\n".join(lines) + f"\n\n{note}\n")


def _space(search: SearchKeys, config: Mapping[str, Any]) -> dict[str, SpaceKeys]:
    """Return the space of the model that is trained.

    Raises:
        UserError: there is none.
    """
    from adbench.errors import nearest

    model = str(config["model"]["name"])
    space = search.spaces.get(model)
    if not space:
        known = ", ".join(sorted(search.spaces))
        raise UserError(
            f"sweep.search.spaces has none for model={model}{nearest(model, search.spaces)} "
            f"(known: {known}); a file of your own beside: --config-dir"
        )
    return space


def _with_signal(fixed: Sequence[str], config: Mapping[str, Any], search: SearchKeys) -> list[str]:
    """Return overrides under which the validation signal is there, where it is looked at."""
    train = config["train"]
    wanted = any(name.startswith("val") for name in search.objectives)
    if wanted and config["synthesis"].get("_target_") is None:
        raise UserError(
            "the validation signal is made of synthetic anomalies, and there are none "
            "(synthesis=none): set synthesis=draem"
        )
    if not wanted or train["validate_every"] or train["select"] == "validation":
        return list(fixed)
    return [*fixed, "train.validate_every=1"]


def _checked(
    fixed: Sequence[str],
    space: Mapping[str, SpaceKeys],
    search: SearchKeys,
    arguments: Arguments,
) -> dict[str, Any]:
    """Return the configuration of a trial; both ends of every range and all choices are tried.

    Raises:
        UserError: a key does not exist or takes no such value, or an objective is of the test set.
    """
    from adbench.config.compose import compose_config
    from adbench.config.schema import settings
    from adbench.sweeps.search import check_objectives, word_of

    config: dict[str, Any] = {}
    ends = {key: each.ends for key, each in space.items()}
    for place in range(max(len(each) for each in ends.values())):
        values = {key: each[min(place, len(each) - 1)] for key, each in ends.items()}
        words = [f"{key}={word_of(value)}" for key, value in values.items()]
        config = compose_config("train", [*fixed, *words], arguments.config_dir)
        check_objectives(search, settings(config))
    return config


def _places(conf: FixedConf) -> Callable[[Sequence[str]], list[Path]]:
    """Return what finds the run folders of overrides: one a category."""
    from functools import lru_cache

    from adbench.config.compose import compose_config
    from adbench.config.schema import DatasetKeys
    from adbench.config.typed import from_mapping
    from adbench.data.opening import chosen_categories
    from adbench.runs.folder import run_path

    @lru_cache(maxsize=4096)
    def found(overrides: tuple[str, ...]) -> list[Path]:
        with conf.in_force():
            config = compose_config("train", overrides, conf.config_dir)
        keys = from_mapping(DatasetKeys, config["dataset"], "dataset")
        names = chosen_categories(keys)
        names = ["+".join(names)] if config["dataset"]["multiclass"] else names
        return [run_path(config, name) for name in names]

    return lambda overrides: found(tuple(overrides))


def _plain(space: Mapping[str, SpaceKeys]) -> dict[str, Any]:
    from dataclasses import asdict

    return {key: asdict(each) for key, each in space.items()}


def _deciding(search: SearchKeys) -> dict[str, Any]:
    """Return what two controllers of one search must agree on; how many trials may grow."""
    return {
        "objectives": list(search.objectives),
        "startup": search.startup,
        "prune": search.prune,
        "default": search.default,
        "seed": search.seed,
    }


def _name(request: Mapping[str, Any]) -> str:
    import hashlib
    import json

    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    return f"search-{digest.hexdigest()[:8]}"


def _write_preset(path: Path, fixed: Sequence[str], params: Mapping[str, Any], title: str) -> None:
    """Write the groups and values of a trial as ``experiment=best``."""
    import yaml

    from adbench.config.locate import GROUPS
    from adbench.runs.files import write_text

    defaults: list[Any] = []
    values: dict[str, Any] = {}
    for word in fixed:
        key, _, value = word.lstrip("+").partition("=")
        if key == "experiment":
            defaults.insert(0, value)
        elif key in GROUPS and key != "dataset":
            defaults.append({f"override /{key}": value})
        elif key not in ("dataset", "seed", "plain") and not key.startswith(("run.", "dataset.ca")):
            _put(values, key, yaml.safe_load(value))
    for key, value in params.items():
        _put(values, key, value)
    body = {"defaults": [*defaults, "_self_"], **values}
    text = f"# @package _global_\n# {title}\n" + yaml.safe_dump(body, sort_keys=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for name in sections:
        values = values.setdefault(name, {})
    values[last] = value
