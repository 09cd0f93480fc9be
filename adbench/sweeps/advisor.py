"""What to try next, and what to give up: Optuna, asked with the trials so far."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adbench.config.schema import SearchKeys, SpaceKeys
from adbench.errors import UserError
from adbench.sweeps.study import Trial

if TYPE_CHECKING:
    import optuna

_TRIES = 20  # draws of a setting that was tried before, until the space counts as exhausted


class Advisor:
    """Draws settings (TPE) and judges running trials (median of the others at the same epoch).

    The study is built anew for each question and the sampler seeded by the trial's number, so
    that an answer follows from the trials so far and not from which process asks.

    Args:
        default: setting of the first trial; None: drawn as the others are.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(
        self,
        space: Mapping[str, SpaceKeys],
        keys: SearchKeys,
        default: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError("sweep=optuna needs Optuna: pip install 'adbench[search]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.keys, self.default = optuna, keys, default
        self.distributions = {key: _distribution(optuna, each) for key, each in space.items()}

    def draw(self, trials: Sequence[Trial], number: int) -> dict[str, Any] | None:
        """Return a setting that no trial had; None where none seems to be left."""
        if number == 0 and self.default is not None:
            return dict(self.default)
        tried = [trial.params for trial in trials]
        for attempt in range(_TRIES):
            study = self._study(trials, self._seed(number, attempt))
            params = study.ask(self.distributions).params
            if params not in tried:
                return dict(params)
        return None

    def hopeless(self, trials: Sequence[Trial], curve: Mapping[int, float]) -> str | None:
        """Why a running trial with this ``curve`` (epoch -> signal) is given up; None: it is not.

        Only a search for the validation signal alone prunes: what else is wanted is known at the
        end.
        """
        wanted = self.keys.objectives
        if not self.keys.prune or len(wanted) > 1 or not wanted[0].startswith("val") or not curve:
            return None
        state = self.optuna.trial.TrialState.RUNNING
        running = self.optuna.trial.create_trial(state=state, intermediate_values=dict(curve))
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=self.keys.startup)
        study = self._study(trials, 0)
        if not pruner.prune(study, running):
            return None
        step = max(curve)
        return (
            f"pruned at epoch {step}: its best signal {max(curve.values()):.4f} is below the median"
        )

    def importance(self, trials: Sequence[Trial]) -> dict[str, float]:
        """Return each key's share in what the first objective varies by; empty with few trials."""
        study = self._study(trials, 0)
        whole = [t for t in study.trials if t.state.name == "COMPLETE"]
        if len(whole) < 4:
            return {}
        target = None if len(self.keys.objectives) == 1 else (lambda t: t.values[0])
        try:
            found = self.optuna.importance.get_param_importances(study, target=target)
        except (RuntimeError, ValueError):  # all trials equal
            return {}
        return {key: float(value) for key, value in found.items()}

    def best(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the best complete trial, or the Pareto front by its first objective."""
        whole = [trial for trial in trials if trial.state == "complete"]
        front = [
            one for one in whole if not any(_dominates(other.values, one.values) for other in whole)
        ]
        front.sort(key=lambda trial: (-trial.values[0], trial.number))
        return front if len(self.keys.objectives) > 1 else front[:1]

    def _study(self, trials: Sequence[Trial], seed: int) -> optuna.Study:
        sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.keys.startup)
        upwards = self.optuna.study.StudyDirection.MAXIMIZE
        directions = [upwards] * len(self.keys.objectives)
        study = self.optuna.create_study(directions=directions, sampler=sampler)
        for trial in trials:
            study.add_trial(self._frozen(trial))
        return study

    def _frozen(self, trial: Trial) -> Any:
        states = self.optuna.trial.TrialState
        state = {
            "asked": states.RUNNING,
            "complete": states.COMPLETE,
            "pruned": states.PRUNED,
            "failed": states.FAIL,
        }[trial.state]
        return self.optuna.trial.create_trial(
            state=state,
            params=trial.params,
            distributions=self.distributions,
            values=list(trial.values) if trial.state == "complete" else None,
            intermediate_values=trial.curve if len(self.keys.objectives) == 1 else None,
        )

    def _seed(self, number: int, attempt: int) -> int:
        name = f"{self.keys.seed} {number} {attempt}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:4])


def default_setting(
    space: Mapping[str, SpaceKeys], config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return what ``config`` sets the keys of a space to; None where that lies outside of it."""
    found: dict[str, Any] = {}
    for key, each in space.items():
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if not _within(each, value):
            return None
        found[key] = value if each.choices or each.integer else float(value)
    return found


def _within(space: SpaceKeys, value: Any) -> bool:
    if space.choices is not None:
        return value in space.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = float(space.low or 0), float(space.high or 0)
    step = space.step or (1.0 if space.integer else None)
    on_step = step is None or abs((value - low) / step - round((value - low) / step)) < 1e-9
    return low <= value <= high and on_step


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _distribution(optuna: Any, space: SpaceKeys) -> Any:
    if space.choices is not None:
        return optuna.distributions.CategoricalDistribution(space.choices)
    if space.integer:
        step = int(space.step or 1)
        return optuna.distributions.IntDistribution(
            int(space.low or 0), int(space.high or 0), log=space.log, step=step
        )
    return optuna.distributions.FloatDistribution(
        space.low, space.high, log=space.log, step=space.step
    )
