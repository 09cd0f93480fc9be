"""One training run, from configuration to a finished run folder."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch

from adbench.config.schema import Settings, settings
from adbench.data.datamodule import DataModule
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule, load_detector, save_detector
from adbench.runs.environment import environment, peak_memory
from adbench.runs.files import write_json
from adbench.runs.folder import RunFolder, run_path
from adbench.runs.stages import run_stages
from adbench.training.build import build_module, build_synthesis, weights_record
from adbench.training.callbacks import Budget, Checkpoint, History, Progress
from adbench.training.data import (
    build_datamodule,
    check_data,
    check_requirements,
    chosen_categories,
    read_samples,
)
from adbench.training.evaluate import evaluate
from adbench.training.loggers import build_logger, log_to
from adbench.training.refit import FIRST, check_refit, first_config, refit_keys
from adbench.training.selection import Selection, validation_signal
from adbench.training.testing import device_of, held_out_of, tested

Say = Callable[[str], None]


def train(config: Mapping[str, Any], overrides: Sequence[str], say: Say) -> list[Path]:
    """Train what the configuration asks for; return the run folders, one per category.

    Raises:
        UserError: the request cannot be carried out.
    """
    keys = settings(config)
    categories = chosen_categories(keys.dataset)
    if keys.dataset.multiclass and len(categories) > 1:
        groups = [categories]
    else:
        groups = [[category] for category in categories]
    return [_train_one(config, group, overrides, say) for group in groups]


def _train_one(
    config: Mapping[str, Any], categories: Sequence[str], overrides: Sequence[str], say: Say
) -> Path:
    own = {**config, "dataset": {**config["dataset"], "category": _category_value(categories)}}
    name = categories[0] if len(categories) == 1 else "multiclass"
    return _run_in(RunFolder(run_path(own, name)), own, categories, overrides, say)


def _run_in(
    folder: RunFolder,
    config: Mapping[str, Any],
    categories: Sequence[str],
    overrides: Sequence[str],
    say: Say,
) -> Path:
    """Train, test and write one run folder; resume it where a checkpoint lies."""
    keys = settings(config)
    with folder.locked():
        if config["force"] is True:
            folder.clear()
        if folder.finished and config["stage"] is None:
            say(f"{folder.path}: finished before, reported as it is (force=true repeats it)")
            return folder.path
        folder.begin(config, list(overrides))
        with _logged(folder, say) as told:
            try:
                if keys.train.refit:
                    check_refit(config, keys)
                    first = RunFolder(folder / FIRST)
                    _run_in(first, first_config(config), categories, overrides, told)
                    if not first.finished:  # only stages were asked for
                        return folder.path
                    keys = refit_keys(keys, first.path)
                _Session(config, keys, folder, categories, told).run()
            except BaseException as error:
                _record_failure(folder, error)
                raise
    return folder.path


def _category_value(categories: Sequence[str]) -> str | list[str]:
    return categories[0] if len(categories) == 1 else list(categories)


def _record_failure(folder: RunFolder, error: BaseException) -> None:
    status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    # The disk may be what failed: the error itself must still reach the user.
    with contextlib.suppress(OSError):
        folder.update(status=status, reason=_one_line(error))
        with open(folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(traceback.format_exc())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _logged(folder: RunFolder, say: Say) -> Iterator[Say]:
    with open(folder / "log.txt", "a", encoding="utf-8") as log:

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
        categories: Sequence[str],
        say: Say,
    ) -> None:
        self.config, self.keys, self.folder = config, keys, folder
        self.categories, self.say = categories, say
        self.seconds: dict[str, float] = {}
        self.epochs = 0

    def run(self) -> None:
        start = time.perf_counter()
        torch.set_num_threads(self.keys.hardware.threads)
        self.folder.update(
            status="running",
            name=self.folder.path.name,
            model=self.config["model"]["name"],
            seed=self.keys.seed,
            protocol=self.keys.protocol,
            environment=environment(),
        )
        with self._timed("data"):
            samples = read_samples(self.keys.dataset, self.categories)
            check_data(samples, self.say)
            datamodule = build_datamodule(self.keys, samples, all_normals=self.keys.train.refit)
        with self._timed("build"):
            module = build_module(self.config, self.keys)
            module.to(device_of(self.keys.hardware.accelerator))  # stages and caches run there too
        check_requirements(module.requirements(len(datamodule.train_samples)), self.keys, samples)
        self._introduce(datamodule, module)
        if self._stages(datamodule, module):
            return
        selections = self._fit(datamodule, module)
        with self._timed("finish"):
            chosen = self._chosen_epoch(module, selections)
            module.eval()
            module.refresh()
            module.finish(datamodule.without_test())
            module.artefacts(self.folder.path)
            save_detector(module.detector, self.folder.path)
        held = build_datamodule(self.keys, samples) if self.keys.train.refit else datamodule
        self._test(datamodule, held, chosen, selections)
        self.seconds["total"] = time.perf_counter() - start
        self.folder.update(
            status="finished",
            reason=None,
            seconds={name: round(value, 3) for name, value in self.seconds.items()},
            peak_memory=peak_memory(),
        )

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
        module.stage_folder = self.folder / "stages"
        synthesis = getattr(module, "synthesis", None)
        if synthesis is not None:
            synthesis.stage_folder = module.stage_folder
        stages = module.stages()
        only, until = self.config["stage"], self.config["until"]
        force = self.config["force"] if isinstance(self.config["force"], str) else None
        if not stages and only is None and until is None:
            return False
        with self._timed("stages"):
            run_stages(
                stages,
                self.folder / "stages",
                datamodule.without_test(),
                only=None if only == "fit" else only,
                until=None if until == "fit" else until,
                force=force,
                say=self.say,
            )
        ends = only not in (None, "fit") or until not in (None, "fit")
        if ends:
            self.folder.update(status="stages finished")
        return ends

    def _fit(self, datamodule: DataModule, module: AnomalyModule) -> list[Selection]:
        train_data = datamodule.without_test()
        with self._timed("prepare"):
            module.prepare(train_data)
        trainer, selections = self._trainer(datamodule, module)
        checkpoint = self.folder / "checkpoints" / "last.ckpt"
        if checkpoint.is_file():
            self.say(f"resuming from {checkpoint}")
        module.strict_loading = False  # checkpoints leave the frozen backbone out
        module.train()
        with self._timed("fit"), _interrupts_raised():
            trainer.fit(
                module,
                datamodule=train_data,
                ckpt_path=str(checkpoint) if checkpoint.is_file() else None,
                weights_only=False,
            )
        self.epochs = trainer.current_epoch
        return selections

    def _trainer(
        self, datamodule: DataModule, module: AnomalyModule
    ) -> tuple[lightning.Trainer, list[Selection]]:
        hardware, keys = self.keys.hardware, self.keys.train
        logger = build_logger(self.config["logger"], self.folder.path)
        history = History(self.folder / "history.csv", log_to(logger))
        budget = Budget(keys, len(datamodule.train_dataloader()))
        module.progress = budget.fraction
        selections = self._selections(datamodule, module, history)
        live = not self.keys.plain and os.isatty(2)
        callbacks = [
            budget,
            *selections,
            history,
            Progress(budget, self.say, live=live),
            Checkpoint(self.folder / "checkpoints" / "last.ckpt", keys.checkpoint_minutes),
        ]
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            strategy=hardware.strategy,
            precision=hardware.precision,  # type: ignore[arg-type]
            max_epochs=-1,
            logger=logger or False,  # None would mean Lightning's own choice
            callbacks=callbacks,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=hardware.strategy != "auto",
            num_sanity_val_steps=0,
            limit_val_batches=0,
            deterministic="warn" if hardware.deterministic else False,
            default_root_dir=self.folder.path,
        )
        return trainer, selections

    def _selections(
        self, datamodule: DataModule, module: AnomalyModule, history: History
    ) -> list[Selection]:
        keys, found = self.keys.train, []
        every = keys.validate_every or (1 if keys.select == "validation" else 0)
        if every:
            synthesis = build_synthesis(self._validation_synthesis())
            assert synthesis is not None
            held_out = datamodule.without_test()
            synthesis.stage_folder = self.folder / "stages"
            synthesis.prepare(held_out)
            found.append(
                Selection(
                    "validation",
                    every,
                    lambda owner: validation_signal(owner, held_out, synthesis),
                    lambda figures: figures["val_pixel_ap"],
                    history,
                    select=keys.select == "validation",
                )
            )
        every = keys.oracle_every or (1 if keys.select == "test" else 0)
        if every:
            found.append(
                Selection(
                    "oracle",
                    every,
                    lambda owner: self._look_at_test(owner, datamodule),
                    lambda figures: figures["image_auroc"] + figures["pixel_auroc"],
                    history,
                    select=keys.select == "test",
                )
            )
        return found

    def _validation_synthesis(self) -> Mapping[str, Any]:
        section = self.config["synthesis"]
        if section and section.get("_target_"):
            return dict(section)
        raise UserError("validation needs synthetic anomalies: set synthesis=las")

    def _look_at_test(self, module: AnomalyModule, datamodule: DataModule) -> dict[str, float]:
        found = evaluate(module.detector, datamodule, self.keys.metrics, module.device).metrics
        image, pixel = found["image"]["auroc"], found["pixel"]["auroc"]
        return {"image_auroc": image or 0.0, "pixel_auroc": pixel or 0.0}

    def _chosen_epoch(self, module: AnomalyModule, selections: Sequence[Selection]) -> int:
        for selection in selections:
            epoch = selection.restore(module)
            if epoch is not None:
                self.say(f"epoch {epoch} chosen by {selection.name}")
                return epoch
        return self.epochs

    def _test(
        self,
        datamodule: DataModule,
        held: DataModule,
        epoch: int,
        selections: Sequence[Selection],
    ) -> None:
        device = device_of(self.keys.hardware.accelerator)
        # Read back from the folder: what is measured is what was saved.
        detector = load_detector(self.folder.path, device)
        with self._timed("test"):
            normal = held_out_of(self.folder.path, detector, held, self.keys)
            document = tested(detector, datamodule, self.keys, normal, self.folder.path)
        document["category"] = "+".join(self.categories)
        document["epoch"] = epoch
        for selection in selections:
            if selection.best is not None:
                document[selection.name] = selection.best
        phases = {k: round(v, 3) for k, v in self.seconds.items()}
        document["seconds"] = {**document["seconds"], **phases}
        write_json(self.folder / "metrics.json", document)


@contextlib.contextmanager
def _interrupts_raised() -> Iterator[None]:
    """Turn Lightning's answer to Ctrl-C (exit code 1, further ones ignored) back into itself."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error
