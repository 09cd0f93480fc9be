"""Lightning's loggers beside history.csv, only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from adbench.errors import UserError

_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def build_logger(section: Mapping[str, Any], folder: Path) -> Logger | None:
    """Return the logger the group names; None for ``csv``, which the run folder always has.

    Raises:
        UserError: the package behind it is not installed.
    """
    name = section["name"]
    if name == "csv":
        return None
    try:
        return _built(name, section, folder)
    except ModuleNotFoundError as error:
        package = _PACKAGES.get(name, name)
        raise UserError(
            f"logger={name} needs the package {package}: pip install {package}"
        ) from error


def _built(name: str, section: Mapping[str, Any], folder: Path) -> Logger:
    from lightning.pytorch import loggers

    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="tensorboard", version="")
    if name == "wandb":
        return loggers.WandbLogger(
            project=section["project"], save_dir=folder, offline=section["offline"]
        )
    if name == "mlflow":
        uri = section["uri"] or (folder / "mlruns").absolute().as_uri()
        return loggers.MLFlowLogger(section["experiment"], tracking_uri=uri)
    raise UserError(f"logger={name} is unknown: csv, tensorboard, wandb or mlflow")


def log_to(logger: Logger | None) -> Callable[[Mapping[str, float], int], None]:
    """Return a function that sends one row of history to the logger."""

    def log(row: Mapping[str, float], epoch: int) -> None:
        if logger is not None:
            logger.log_metrics(dict(row), step=epoch)
            logger.save()

    return log
