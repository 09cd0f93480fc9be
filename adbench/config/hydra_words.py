"""What to type here, for who knows Hydra's own words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adbench.config.typed import shown
from adbench.errors import UserError

_LAUNCHERS = {
    "basic": "launcher=local",
    "joblib": "launcher=joblib",
    "ray": "launcher=ray",
    "submitit_local": "launcher=submitit launcher.executor=local",
    "submitit_slurm": "launcher=submitit",
}
# pattern of a key -> what stands for it here; {} is the value
_KEYS = {
    r"hydra/sweeper": "adbench sweep sweep=optuna",
    r"hydra\.mode": "adbench sweep, or --multirun",
    r"hydra\.sweeper\.n_trials": "sweep.search.trials={}",
    r"hydra\.(sweeper|launcher)\.n_jobs": "sweep.jobs={}",
    r"hydra\.sweeper\.sampler\.seed": "sweep.search.seed={}",
    r"hydra\.sweeper\.sampler\.n_startup_trials": "sweep.search.startup={}",
    r"hydra\.sweeper\.study_name": "sweep.name={}",
    r"hydra\.sweeper\.direction": "sweep.search.objectives=[validation] (all are to be large)",
    r"hydra\.sweeper\.storage": "nothing: the search's folder is its memory; sweep.name= names it",
    r"hydra\.sweeper\.(params|search_space).*": "a space in a file: see conf/sweep/optuna.yaml",
    r"hydra\.sweeper\.max_batch_size": "sweep.jobs={}",
    r"hydra\.launcher\.timeout_min": "launcher.minutes={}",
    r"hydra\.launcher\.max_num_timeout": "launcher.timeouts={}",
    r"hydra\.launcher\.cpus_per_task": "launcher.cpus={}",
    r"hydra\.launcher\.gpus_per_(node|task)": "launcher.gpus={}",
    r"hydra\.launcher\.mem_gb": "launcher.memory_gb={}",
    r"hydra\.launcher\.array_parallelism": "launcher.parallel={}",
    r"hydra\.launcher\.ray\.init\.address": "launcher.address={}",
    r"hydra\.launcher\.ray\.remote\.num_(cpus|gpus)": "launcher.cpus=, launcher.gpus=",
    r"hydra\.launcher\.(?P<word>[a-z_]+)": "launcher.slurm={{{word}:{}}}",
    r"hydra\.(run|sweep)\.(dir|subdir)": "run.root={}",
    r"hydra\.searchpath": "--config-dir FOLDER",
    r"hydra\.(verbose|job_logging.*|hydra_logging.*)": "log.txt of the run folder; plain=true",
}


def refuse_hydras_own(words: Sequence[str]) -> None:
    """Answer an override of Hydra itself with what to type instead.

    Raises:
        UserError: there is one.
    """
    for word in words:
        if re.match(r"\+{0,2}hydra[./=]", word):
            raise UserError(f"{shown(word)}: {_instead(word.lstrip('+'))}")


def _instead(word: str) -> str:
    key, _, value = word.partition("=")
    if key == "hydra/launcher":
        typed = _LAUNCHERS.get(value, f"launcher={value}" if value else "launcher=NAME")
        if value in _LAUNCHERS:
            return f"type {typed} (with adbench sweep)"
        return f"adbench sweep has launcher=local|joblib|submitit|ray, not {value or 'that'}"
    for pattern, form in _KEYS.items():
        if found := re.fullmatch(pattern, key):
            return "type " + form.format(shown(value), **found.groupdict())
    return "Hydra's own keys have no effect here; see --help"
