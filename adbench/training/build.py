"""From a configuration to backbone, synthesizer and module."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adbench.config.locate import options
from adbench.config.schema import Settings
from adbench.config.targets import imported
from adbench.errors import UserError
from adbench.methods.base import AnomalyModule
from adbench.synthesis.base import Synthesizer


def build_synthesis(section: Mapping[str, Any] | None) -> Synthesizer | None:
    """Return the synthesizer of the group's section; None for ``synthesis=none``."""
    if not section or section.get("_target_") is None:
        return None
    keys = {k: v for k, v in section.items() if k not in ("_target_", "name")}
    return _called(
        imported(section["_target_"], Synthesizer, "synthesis._target_"), keys, "synthesis"
    )


def build_diffusion(section: Mapping[str, Any] | None) -> nn.Module | None:
    """Return the latent diffusion model of the group's section; None for ``diffusion=none``."""
    if not section or section.get("_target_") is None:
        return None
    keys = {k: v for k, v in section.items() if k not in ("_target_", "name")}
    kind = imported(section["_target_"], nn.Module, "diffusion._target_")
    model: nn.Module = _called(kind, keys, "diffusion")
    return model


def build_feature_extractor(config: Mapping[str, Any]) -> nn.Module | None:
    """Return the frozen backbone; the model's ``layers`` go before the group's."""
    from adbench.backbones import build_backbone
    from adbench.backbones.weights import WeightsAbsentError

    section = dict(config["backbone"])
    if section.get("name") is None:
        return None
    layers = config["model"].get("layers") or section.pop("layers", None)
    section.pop("layers", None)
    try:
        return build_backbone(layers=layers, **section)
    except WeightsAbsentError as error:
        preset = f"{config['model']['name']}_cpu"
        if preset not in options("experiment"):
            raise
        told = f"{error}. What runs here in minutes: experiment={preset} backbone=bundled"
        raise UserError(told) from error


def build_module(config: Mapping[str, Any], keys: Settings) -> AnomalyModule:
    """Return the untrained module; its weights depend on the seed alone."""
    section = config["model"]
    kind = imported(section["_target_"], AnomalyModule, "model._target_")
    own = {k: v for k, v in section.items() if k not in ("_target_", "name", "layers")}
    backbone = build_feature_extractor(config)
    synthesis = build_synthesis(config["synthesis"])
    torch.manual_seed(keys.seed)
    arguments = {
        "backbone": backbone,
        "synthesis": synthesis,
        "image_size": keys.dataset.size,
        "seed": keys.seed,
        **own,
    }
    if "diffusion" in inspect.signature(kind).parameters:
        arguments["diffusion"] = build_diffusion(config.get("diffusion"))
    module: AnomalyModule = _called(kind, arguments, "model")
    if module.requirements(1).uses_synthesis and synthesis is None:
        raise UserError(f"model={section['name']} trains on synthetic anomalies: set synthesis=las")
    return module


def _called(kind: type[Any], arguments: Mapping[str, Any], section: str) -> Any:
    try:
        return kind(**arguments)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise UserError(f"{section}: {str(error).split('.', 1)[-1]}") from error
        raise


def weights_record(module: AnomalyModule) -> dict[str, Any]:
    """Return name, source and sha256 of the backbone's and a base model's weights for run.json."""
    backbone = getattr(module, "backbone", None) or getattr(module.detector, "backbone", None)
    record = getattr(backbone, "record", None)
    found = dict(record) if record else {}
    base = getattr(getattr(module, "diffusion", None), "record", None)
    return {**found, "diffusion": base} if base else found
