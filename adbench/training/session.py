"""One training run, from configuration to a finished run folder."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from adbench.config.schema import Settings, settings
from adbench.data.datamodule import DataModule
from adbench.data.defects import (
    SEEN,
    check_disjoint,
    described,
    seen_through,
    with_seen,
    without_these,
    write_seen,
)
from adbench.data.fingerprint import differences, fingerprint
from adbench.data.opening import chosen_categories, located, read_samples
from adbench.data.sample import Sample
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, load_detector, save_detector
from adbench.runs.environment import device_name, environment, peak_memory
from adbench.runs.files import open_beneath, remove, write_json
from adbench.runs.folder import RunFolder, locked, run_path
from adbench.runs.identity import differing, identity
from adbench.runs.stages import run_stages
from adbench.training.build import build_module, weights_record
from adbench.training.crossfit import check_folds, cross_fitted, shared_features
from adbench.training.data import (
    build_datamodule,
    check_data,
    check_requirements,
    check_shares,
    depth_of,
)
from adbench.training.evaluate import HeldOut
from adbench.training.faults import told_as_user_errors
from adbench.training.fit import Fitted, fit, settled_precision
from adbench.training.hardware import check_hardware
from adbench.training.processes import Team, follow, joined
from adbench.training.refit import FIRST, check_refit, first_config, refit_keys
from adbench.training.seal import Seal, sealed
from adbench.training.testing import device_of, draw_more, held_out_of, tested
from adbench.training.threshold import write_threshold

Say = Callable[[str], None]


def train(
    config: Mapping[str, Any], overrides: Sequence[str], say: Say, *, wait: bool = False
) -> list[Path]:
    """Train what the configuration asks for; return the run folders, one per category.

    Args:
        wait: wait for another process that writes the same folder, then report what it made.

    Raises:
        UserError: the request cannot be carried out.
    """
    keys = settings(config)
    check_hardware(keys.hardware)
    config = located(config, keys.dataset)
    keys = settings(config)
    categories = chosen_categories(keys.dataset)
    if keys.dataset.multiclass and len(categories) > 1:
        groups = [categories]
    else:
        groups = [[category] for category in categories]
    with joined(keys.hardware) as team:
        if not team.leads:
            _follow(team)
            return []
        return [_train_one(config, group, overrides, say, team, wait=wait) for group in groups]


def _follow(team: Team) -> None:
    """Take part in the trainings that the first process tells of."""
    at: list[Path] = []

    def fitted(task: tuple[dict[str, Any], Settings, Path, list[Sample], bool]) -> None:
        config, keys, folder, samples, everything = task
        at[:] = [folder]
        torch.set_num_threads(keys.hardware.threads)
        datamodule = build_datamodule(keys, samples, all_normals=everything)
        tests = [path for s in datamodule.test_samples for path in (s.image, *s.masks)]
        with sealed(tests) as seal:
            module = build_module(config, keys)
            module.to(device_of(keys.hardware.accelerator))
            _place_stages(module, folder)
            module.prepare(datamodule.without_test())
            fit(module, datamodule, config, keys, RunFolder(folder), seal, _nothing, team)

    follow(team, fitted, lambda: at[0] / f"process{team.rank}.txt" if at else None)


def _nothing(line: str) -> None:
    """Say nothing: the first process does."""
    del line


def _place_stages(module: AnomalyModule, folder: Path) -> None:
    module.stage_folder = folder / "stages"
    synthesis = getattr(module, "synthesis", None)
    if synthesis is not None:
        synthesis.stage_folder = module.stage_folder


def _train_one(
    config: Mapping[str, Any],
    categories: Sequence[str],
    overrides: Sequence[str],
    say: Say,
    team: Team,
    *,
    wait: bool,
) -> Path:
    chosen = categories[0] if len(categories) == 1 else list(categories)
    own = {**config, "dataset": {**config["dataset"], "category": chosen}}
    name = categories[0] if len(categories) == 1 else "multiclass"
    folder = RunFolder(run_path(own, name))
    dataset = settings(own).dataset
    samples = read_samples(dataset, categories)
    bits = depth_of(dataset, samples)
    own["dataset"]["bits"] = bits  # recorded: later pictures are read as these were
    check_data(samples, say, bits=bits)
    samples = _without_seen(own, samples, say)
    with locked(folder.path, wait=wait):
        if config["force"] is True:
            folder.clear()
        _run_in(folder, own, samples, overrides, say, team)
    return folder.path


def _without_seen(config: Mapping[str, Any], samples: Sequence[Sample], say: Say) -> list[Sample]:
    """Return the samples, defects that the run sees, itself or through pairs, in a split apart."""
    keys = settings(config)
    marked = with_seen(samples, keys.dataset.defects, keys.seed)
    through = seen_through(config.get("synthesis"))
    found = without_these(marked, through)
    own, all_seen = (sum(s.split == SEEN for s in each) for each in (marked, found))
    if all_seen > own:
        say(f"note: {all_seen - own} test pictures were seen by the pairs: they are not scored")
    check_disjoint(found, [*described(found), *through])
    return found


def _run_in(
    folder: RunFolder,
    config: Mapping[str, Any],
    samples: Sequence[Sample],
    overrides: Sequence[str],
    say: Say,
    team: Team,
) -> None:
    """Train, test and write one run folder; resume it where the same command began it."""
    keys = settings(config)
    who = _identified(folder, config, samples)
    repeats = isinstance(config["force"], str)
    if folder.finished and config["stage"] is None and not repeats:
        say(f"{folder.path}: finished before, reported as it is (force=true repeats it)")
        draw_more(folder, keys, samples, say)
        return
    if repeats:  # what was trained on the stage's former artefact goes
        remove(folder / "checkpoints")
    folder.begin(config, list(overrides))
    with _logged(folder, say) as told:
        try:
            folder.update(status="running", reason=None, identity=who)
            with told_as_user_errors(folder.path):
                first = _first_training(folder, config, samples, overrides, told, team)
                if first is not None and not first.finished:  # only stages were asked for
                    return
                keys = keys if first is None else refit_keys(keys, first.path)
                _Session(config, keys, folder, samples, told, team).run()
        except BaseException as error:
            _record_failure(folder, error)
            raise


def _first_training(
    folder: RunFolder,
    config: Mapping[str, Any],
    samples: Sequence[Sample],
    overrides: Sequence[str],
    say: Say,
    team: Team,
) -> RunFolder | None:
    """Run the training that holds normals out, where ``train.refit`` asks for a second one."""
    keys = settings(config)
    if not keys.train.refit:
        return None
    check_refit(config, keys)
    first = RunFolder(folder / FIRST)
    first.path.mkdir(exist_ok=True)
    _run_in(first, first_config(config), samples, overrides, say, team)
    return first


def _identified(
    folder: RunFolder, config: Mapping[str, Any], samples: Sequence[Sample]
) -> dict[str, Any]:
    """Return who the run is.

    Raises:
        UserError: the folder was begun by another configuration, on other pictures or by other
            code: what lies in it would carry this command's name.
    """
    found = fingerprint(samples)
    device = device_name(device_of(config["hardware"]["accelerator"]))
    who = identity(config, found.as_dict(), device)
    if not folder.begun:
        return who
    stored = folder.record.get("identity")
    if not isinstance(stored, dict):
        raise UserError(f"{folder.path} holds no run of this adbench; {_WAYS}")
    data = stored.get("data")
    told = differing(stored, who, differences(data if isinstance(data, dict) else {}, found))
    if told:
        raise UserError(f"{folder.path} was begun with {'; '.join(told)}. {_WAYS}")
    return who


_WAYS = "run.name=OTHER keeps both, force=true replaces it"


def _record_failure(folder: RunFolder, error: BaseException) -> None:
    interrupted = isinstance(error, KeyboardInterrupt)
    status = "interrupted" if interrupted else "failed"
    # The disk may be what failed: the error itself must still reach the user.
    with contextlib.suppress(OSError, UserError):
        folder.update(status=status, reason=_one_line(error))
        with open_beneath(folder / "log.txt", "a") as log:
            log.write("interrupted\n" if interrupted else traceback.format_exc())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _logged(folder: RunFolder, say: Say) -> Iterator[Say]:
    with open_beneath(folder / "log.txt", "a") as log:

        def told(line: str) -> None:
            log.write(f"{time.strftime('%H:%M:%S')} {line}\n")
            log.flush()
            say(line)

        yield told


class _Session:
    """The steps of one run, in order."""

    def __init__(
        self,
        config: Mapping[str, Any],
        keys: Settings,
        folder: RunFolder,
        samples: Sequence[Sample],
        say: Say,
        team: Team,
    ) -> None:
        self.config, self.keys, self.folder = config, keys, folder
        self.samples, self.say, self.team = samples, say, team
        self.categories = sorted({sample.category for sample in samples})
        self.seconds: dict[str, float] = {}
        self.memo = shared_features(keys)

    def run(self) -> None:
        start = time.perf_counter()
        torch.set_num_threads(self.keys.hardware.threads)
        self.folder.update(
            name=self.folder.path.name,
            model=self.config["model"]["name"],
            seed=self.keys.seed,
            protocol=self.keys.protocol,
            precision=settled_precision(self.keys.hardware),
            environment=environment(),
        )
        with self._timed("data"):
            refit, folds = self.keys.train.refit, self.keys.threshold.folds
            self.everything = refit or folds > 0
            datamodule = build_datamodule(self.keys, self.samples, all_normals=self.everything)
        self._record_seen()
        tests = [path for s in datamodule.test_samples for path in (s.image, *s.masks)]
        with sealed(tests) as seal:
            fitted = self._trained(datamodule, seal)
            if fitted is None:
                return
            crossed = self._cross_fitted() if folds else None
            self.memo = None  # features of photographs are many
            self._check_seal(seal)
        held = build_datamodule(self.keys, self.samples) if refit else datamodule
        self._test(datamodule, held, fitted, crossed)
        self.seconds["total"] = time.perf_counter() - start
        self.folder.update(
            status="finished",
            reason=None,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            peak_memory=peak_memory(),
        )

    def _record_seen(self) -> None:
        """Write who was seen: neither this run nor one that uses its pairs scores them."""
        seen = {each.sha256: each for each in seen_through(self.config.get("synthesis"))}
        seen |= {each.sha256: each for each in described(self.samples)}
        if seen:
            asked = self.config["dataset"].get("defects")
            write_seen(self.folder.path, list(seen.values()), self.samples, asked, self.keys.seed)

    def _trained(self, datamodule: DataModule, seal: Seal) -> Fitted | None:
        """Train and save the detector; None where the run ends with a stage."""
        with self._timed("build"):
            module = build_module(self.config, self.keys)
            module.memo = self.memo
            module.to(device_of(self.keys.hardware.accelerator))  # stages and caches run there too
        needs = module.requirements(len(datamodule.train_samples))
        check_requirements(needs, self.keys, self.samples)
        check_folds(module, needs, self.keys)
        check_shares(self.team.size, self.keys, len(datamodule.train_samples))
        self._introduce(datamodule, module)
        if self._stages(datamodule, module):
            return None
        if self.team.size > 1:
            self.say(f"{self.team.size} processes share every batch")
            where = self.folder.path.resolve()
            samples = list(self.samples)
            self.team.tell((dict(self.config), self.keys, where, samples, self.everything))
        with self._timed("prepare"):
            module.prepare(datamodule.without_test())
        made_of = dict(getattr(getattr(module, "synthesis", None), "record", None) or {})
        self.folder.update(synthesis=made_of)
        if made_of:
            told = ", ".join(f"{name} {value}" for name, value in made_of.items())
            self.say(f"synthetic anomalies ({self.config['synthesis']['name']}): {told}")
        with self._timed("fit"):
            run = (self.config, self.keys, self.folder, seal, self.say, self.team)
            fitted = fit(module, datamodule, *run)
        with self._timed("finish"):
            module.eval()
            module.finish(datamodule.without_test())
            module.artefacts(self.folder.path)
            save_detector(module.detector, self.folder.path, self._pictures())
        return fitted

    def _cross_fitted(self) -> HeldOut:
        with self._timed("cross_fit"):
            run = (self.config, self.keys, self.samples, self.folder, self.memo)
            return cross_fitted(*run, self.say)

    def _pictures(self) -> dict[str, Any]:
        dataset = self.keys.dataset
        return {"size": list(dataset.size), "fit": dataset.fit, "bits": dataset.bits}

    def _check_seal(self, seal: Seal) -> None:
        """Refuse to test what opened test files, even where it swallowed the refusal."""
        self.folder.update(sealed={"files": len(seal), "opened": seal.broken[:20]})
        if seal.broken:
            raise UserError(seal.verdict())

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def _introduce(self, datamodule: DataModule, module: AnomalyModule) -> None:
        weights = weights_record(module)
        self.folder.update(weights=weights)
        splits, light = datamodule.splits, self.keys.train.light
        copies = f" and {light.copies} copies of each in other light" if light.copies else ""
        self.say(
            f"{self.config['model']['name']} on {'+'.join(self.categories)}: "
            f"{len(splits.train)} normal images to train{copies}, {len(splits.val)} held out, "
            f"{len(splits.test)} to test, {'x'.join(map(str, self.keys.dataset.size))} px"
        )
        if weights:
            digest = str(weights.get("sha256") or "")[:12]
            self.say(f"backbone {weights['name']}: {weights['source']} {digest}".rstrip())
            if weights["source"] == "random":
                self.say("WARNING: random backbone weights: figures say nothing about the method")

    def _stages(self, datamodule: DataModule, module: AnomalyModule) -> bool:
        """Run the method's stages; return whether the run ends with them."""
        _place_stages(module, self.folder.path)
        stages = module.stages()
        only, until = self.config["stage"], self.config["until"]
        force = self.config["force"] if isinstance(self.config["force"], str) else None
        if not stages and only is None and until is None and force is None:
            return False
        seen = [*datamodule.splits.train, *datamodule.splits.val, *datamodule.splits.defects]
        with self._timed("stages"):
            run_stages(
                stages,
                self.folder / "stages",
                datamodule.without_test(),
                only=None if only == "fit" else only,
                until=None if until == "fit" else until,
                force=force,
                given=fingerprint(seen).as_dict(),
                say=self.say,
            )
        ends = only not in (None, "fit") or until not in (None, "fit")
        if ends:
            self.folder.update(status="stages finished")
        return ends

    def _test(
        self,
        datamodule: DataModule,
        held: DataModule,
        fitted: Fitted,
        crossed: HeldOut | None,
    ) -> None:
        device = device_of(self.keys.hardware.accelerator)
        # Read back from the folder: what is measured is what was saved.
        detector = load_detector(self.folder.path, device)
        with self._timed("test"):
            normal = crossed
            if normal is None:
                normal = held_out_of(self.folder.path, detector, held, self.keys)
            stored = write_threshold(self.folder.path, normal, self.keys.threshold)
            document = tested(detector, datamodule, self.keys, stored, self.folder.path)
        document["category"] = "+".join(self.categories)
        document["epoch"] = fitted.epoch
        document |= fitted.best
        phases = {k: round(v, 3) for k, v in self.seconds.items()}
        document["seconds"] = {**document["seconds"], **phases}
        write_json(self.folder / "metrics.json", document)
