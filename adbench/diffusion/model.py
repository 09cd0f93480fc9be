"""A trained SDAS model: network, categories, working size, optional classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adbench.diffusion.adm import AdmNetwork, adm_shape, with_classes
from adbench.diffusion.classifier import NoisyClassifier, classifier_guidance
from adbench.diffusion.sampling import sampled
from adbench.diffusion.schedule import linear_schedule, respaced
from adbench.diffusion.settings import Form, Variance
from adbench.errors import UserError, nearest
from adbench.runs.files import read_json, write_beside, write_json

STEPS = 1000


class SdasModel(nn.Module):
    """Everything that drawing images needs.

    Args:
        network: keys of the ADM shape (``preset`` and what differs from it).
        classes: category names, in the order of the label embedding.
        size: (height, width) of the images it draws.
        classifier: keys of the classifier's shape; None goes without guidance.

    Raises:
        UserError: the size is no multiple of the network's coarsest step, or no class is named.
    """

    def __init__(
        self,
        network: Mapping[str, Any],
        classes: Sequence[str],
        size: Sequence[int],
        classifier: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        shape = adm_shape(network)
        if not classes:
            raise UserError("an SDAS model needs at least one category")
        for side in size:
            if side % shape.factor:
                raise UserError(
                    f"size={tuple(size)}: this network needs sides that are multiples of "
                    f"{shape.factor}"
                )
        self.size = (int(size[0]), int(size[1]))
        self.classes = list(classes)
        self.schedule = linear_schedule(STEPS)
        self.network = AdmNetwork(shape, len(classes))
        self.classifier_keys = dict(classifier) if classifier else None
        self.classifier = (
            NoisyClassifier(adm_shape(classifier), len(classes)) if classifier else None
        )

    @property
    def config(self) -> dict[str, Any]:
        """Plain keyword arguments that rebuild the architecture."""
        shape = asdict(self.network.shape)
        return {
            "network": {k: list(v) if isinstance(v, tuple) else v for k, v in shape.items()},
            "classes": list(self.classes),
            "size": list(self.size),
            "classifier": self.classifier_keys,
        }

    def set_classes(self, classes: Sequence[str], generator: torch.Generator) -> None:
        """Give the model other categories; what depends on their number is drawn anew.

        Raises:
            UserError: guidance is asked for with fewer than two categories.
        """
        if self.classifier is not None and len(classes) < 2:
            raise UserError(
                "guidance needs at least two categories: train with dataset.multiclass=true "
                "or set model.guidance=false"
            )
        self.classes = list(classes)
        with_classes(self.network, len(classes), generator)
        if self.classifier is not None:
            old = self.classifier.logits
            new = nn.Linear(old.in_features, len(classes)).to(old.weight)
            nn.init.zeros_(new.weight)
            nn.init.zeros_(new.bias)
            self.classifier.logits = new

    def labels(self, categories: Sequence[str]) -> Tensor:
        """Return [B] int64 class indices of category names, on the CPU.

        Raises:
            UserError: a category the model was not trained on.
        """
        known = {name: number for number, name in enumerate(self.classes)}
        for name in categories:
            if name not in known:
                listed = ", ".join(self.classes)
                raise UserError(
                    f"this SDAS model does not know '{name}'{nearest(name, known)} ({listed})"
                )
        return torch.tensor([known[name] for name in categories])

    def images(
        self,
        categories: Sequence[str],
        strength: Tensor,
        generators: Sequence[torch.Generator],
        *,
        steps: int = 20,
        form: Form = "ancestral",
        variance: Variance = "learned",
        guidance_scale: float = 0.0,
    ) -> Tensor:
        """Return drawn images [B, 3, H, W] float32 in 0..1, one per category, s and generator."""
        if guidance_scale and self.classifier is None:
            raise UserError("this SDAS model was trained without a classifier: guidance_scale=0")
        device = self.network.label_embedding.weight.device
        guidance = None
        if guidance_scale and self.classifier is not None:
            guidance = classifier_guidance(self.classifier, guidance_scale)
        return sampled(
            self.network,
            respaced(self.schedule, steps),
            self.labels(categories).to(device),
            strength.to(device),
            generators,
            self.size,
            form=form,
            variance=variance,
            guidance=guidance,
        )


def save_model(model: SdasModel, folder: Path) -> None:
    """Write ``sdas.safetensors`` and ``sdas.json`` into ``folder``."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with write_beside(folder / "sdas.safetensors") as temporary:
        save_file(state, temporary)
    write_json(folder / "sdas.json", model.config)


def load_model(folder: Path, device: torch.device | str = "cpu") -> SdasModel:
    """Return the model that ``save_model`` wrote, in eval mode.

    Raises:
        UserError: there is none in ``folder``, or its files are damaged.
    """
    if not (folder / "sdas.json").is_file():
        raise UserError(f"no SDAS model in {folder}: sdas.json is missing")
    try:
        model = SdasModel(**read_json(folder / "sdas.json"))
        model.load_state_dict(load_file(folder / "sdas.safetensors"))
    except Exception as error:  # readers raise what they like on a damaged file
        raise UserError(
            f"the SDAS model in {folder} cannot be read ({error}): train it again, force=sdas"
        ) from error
    return model.to(device).eval()
