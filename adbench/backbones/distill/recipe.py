"""Distils a teacher's first three stages into the bundled network.

Phase one is local: every block of the student gets the teacher's input to that block and learns
the teacher's output of it. Each is a small regression, so it converges in a fraction of the
images that training through the whole depth needs. Phase two chains the student's own blocks and
trains end to end, so that errors of early blocks are made good later.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adbench.backbones.bundled_network import BundledNetwork, ResidualBlock
from adbench.backbones.distill.crops import CropSource
from adbench.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything the result depends on.

    Attributes:
        teacher: weights file of a ResNet-18 (timm's key names), layers 1 to 3.
        steps: optimiser steps of both phases together.
        local: share of the steps spent in the local phase.
        batch_size: crops a step.
        side: crop side, pixels.
        photographs: share of crops from photographs, 0..1.
        canvases: generated pictures kept in memory.
        lr, lr_joint: peak learning rates of the two phases.
        ema: decay of the averaged weights, which are what is stored.
        folders: further folders of photographs.
    """

    teacher: str
    steps: int = 6000
    local: float = 0.6
    batch_size: int = 32
    side: int = 128
    photographs: float = 0.5
    canvases: int = 1500
    lr: float = 2e-3
    lr_joint: float = 5e-4
    ema: float = 0.998
    seed: int = 0
    folders: tuple[str, ...] = ()

    @property
    def local_steps(self) -> int:
        """Steps of the local phase."""
        return round(self.steps * self.local)


def loaded_teacher(weights: Path) -> BundledNetwork:
    """Return a ResNet-18 (timm's key names, to layer3) with batch norm folded, frozen.

    Raises:
        UserError: the file lacks a tensor.
    """
    state = load_file(weights)
    folded = {}
    teacher = BundledNetwork()
    try:
        for name, module in teacher.named_modules():
            if isinstance(module, nn.Conv2d):
                conv, norm = _timm_names(name)
                scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
                folded[f"{name}.weight"] = state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1)
                shift = state[f"{norm}.running_mean"] * scale
                folded[f"{name}.bias"] = state[f"{norm}.bias"] - shift
    except KeyError as error:
        raise UserError(f"{weights} is no ResNet-18 to layer3: {error} is missing") from error
    teacher.load_state_dict(folded)
    return teacher.requires_grad_(False).eval()


def _timm_names(name: str) -> tuple[str, str]:
    if name == "stem.conv":
        return "conv1", "bn1"
    block, _, part = name.rpartition(".")
    if part == "shortcut":
        return f"{block}.downsample.0", f"{block}.downsample.1"
    return name, f"{block}.{part.replace('conv', 'bn')}"


def normalised(image: Tensor) -> Tensor:
    """Return images in 0..1 with ImageNet's mean and deviation removed, channels last."""
    mean = torch.tensor(MEAN, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=image.device).view(1, 3, 1, 1)
    return ((image - mean) / std).contiguous(memory_format=torch.channels_last)


def standardised_error(outputs: Sequence[Tensor], targets: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    """Return per block the mean over channels of MSE in units of the teacher's variance."""
    return [
        ((output - target).float().square().mean((0, 2, 3)) / scale).mean()
        for output, target, scale in zip(outputs, targets, scales, strict=True)
    ]


def local_outputs(student: BundledNetwork, image: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """Return each block's output on the teacher's input to that block."""
    inputs = [image, *targets[:-1]]
    return [block(x) for block, x in zip(student.blocks(), inputs, strict=True)]


def chained_outputs(student: BundledNetwork, image: Tensor) -> list[Tensor]:
    """Return each block's output on the student's own chain."""
    outputs, x = [], image
    for block in student.blocks():
        x = block(x)
        outputs.append(x)
    return outputs


@torch.no_grad()
def teacher_outputs(teacher: BundledNetwork, image: Tensor) -> list[Tensor]:
    """Return the output of stem and every block."""
    return chained_outputs(teacher, image)


class Distillation:
    """A resumable training; state lies in ``folder``.

    Args:
        recipe: what to do.
        folder: checkpoint.pt, log.csv and bundled.safetensors are written here.
        device: where to train; bfloat16 autocast is used on a GPU and on request.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, device: str = "cpu", bfloat16: bool = False
    ) -> None:
        self.recipe, self.folder = recipe, folder
        self.device = torch.device(device)
        self.bfloat16 = bfloat16 or self.device.type == "cuda"
        torch.manual_seed(recipe.seed)
        teacher = loaded_teacher(Path(recipe.teacher))
        self.teacher = teacher.to(self.device, memory_format=torch.channels_last)
        self.student = BundledNetwork()
        _initialise(self.student)
        self.student.to(self.device, memory_format=torch.channels_last)
        self.optimiser = torch.optim.AdamW(
            self.student.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=1e-4
        )
        self.average = {k: v.detach().clone() for k, v in self.student.state_dict().items()}
        self.scales: list[Tensor] = []
        self.step = 0
        self.seconds = 0.0

    def run(self, say: Callable[[str], None] = print, minutes: float | None = None) -> Path:
        """Train to the end, or for ``minutes``; return the weights file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume(say)
        say("making pictures")
        source = CropSource(
            self.recipe.seed,
            self.recipe.side,
            photographs=self.recipe.photographs,
            canvases=self.recipe.canvases,
            folders=self.recipe.folders,
        )
        if not self.scales:
            self.scales = self._measured_scales(source)
        held_out = normalised(source.validation(64).to(self.device))
        start = saved = time.monotonic()
        recipe = self.recipe
        for images in source.batches(self.step, recipe.steps, recipe.batch_size):
            errors = self._train_step(images)
            now = time.monotonic()
            if self.step % 50 == 0:
                told = " ".join(f"{error:.3f}" for error in errors)
                rate = 50 * recipe.batch_size / max(now - self._tick, 1e-9)
                self._tick = now
                say(f"step {self.step}/{recipe.steps}  {told}  {rate:.0f} img/s")
            over = minutes is not None and now - start > minutes * 60
            if now - saved > 120 or self.step == recipe.steps or over:
                self.seconds += now - saved
                saved = now
                self._save()
                say(f"held out: {self._told(held_out)}")
            if over:
                break
        return self.folder / "bundled.safetensors"

    _tick = 0.0

    def _train_step(self, images: Tensor) -> list[float]:
        recipe = self.recipe
        self._set_rate()
        image = normalised(images.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            targets = teacher_outputs(self.teacher, image)
            if self.step < recipe.local_steps:
                outputs = local_outputs(self.student, image, targets)
            else:
                outputs = chained_outputs(self.student, image)
            errors = standardised_error(outputs, targets, self.scales)
        self.optimiser.zero_grad(set_to_none=True)
        torch.stack(errors).sum().backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        decay = min(recipe.ema, (1 + self.step) / (10 + self.step))
        state = self.student.state_dict()
        torch._foreach_lerp_(list(self.average.values()), list(state.values()), 1 - decay)
        return [float(error.detach()) for error in errors] if self.step % 50 == 0 else []

    def _set_rate(self) -> None:
        recipe = self.recipe
        if self.step < recipe.local_steps:
            done, peak = self.step / recipe.local_steps, recipe.lr
            floor = 0.1
        else:
            rest = recipe.steps - recipe.local_steps
            done, peak, floor = (self.step - recipe.local_steps) / rest, recipe.lr_joint, 0.0
        warm = min(1.0, (self.step + 1) / 200)
        rate = peak * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _measured_scales(self, source: CropSource) -> list[Tensor]:
        """Return the teacher's variance per channel and block, on ten batches."""
        sums: list[Tensor] = []
        squares: list[Tensor] = []
        for number in range(10):
            image = normalised(source.batch((1 << 30) + number, 32).to(self.device))
            outputs = teacher_outputs(self.teacher, image)
            means = [output.double().mean((0, 2, 3)) for output in outputs]
            seconds = [output.double().square().mean((0, 2, 3)) for output in outputs]
            sums = [a + b for a, b in zip(sums, means, strict=True)] if sums else means
            squares = [a + b for a, b in zip(squares, seconds, strict=True)] if squares else seconds
        variances = [q / 10 - (s / 10).square() for s, q in zip(sums, squares, strict=True)]
        # A channel that hardly ever moves must not outweigh the others.
        return [v.clamp(min=float(v.median()) * 0.05).float() for v in variances]

    @torch.no_grad()
    def _told(self, image: Tensor) -> str:
        """Return the unexplained share of variance, chained and averaged, layer by layer."""
        trained = {k: v.clone() for k, v in self.student.state_dict().items()}
        self.student.load_state_dict(self.average)
        outputs = chained_outputs(self.student, image)
        self.student.load_state_dict(trained)
        targets = teacher_outputs(self.teacher, image)
        shares = []
        for output, target in zip(outputs, targets, strict=True):
            variance = target.var((0, 2, 3)).clamp(min=1e-6)
            shares.append(float(((output - target).square().mean((0, 2, 3)) / variance).median()))
        return " ".join(f"{share:.4f}" for share in shares)

    def _save(self) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "student": self.student.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "scales": self.scales,
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = self.folder / ".checkpoint.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "checkpoint.pt")
        half = {k: v.to("cpu", torch.float16).contiguous() for k, v in self.average.items()}
        card = {"recipe": json.dumps(asdict(self.recipe)), "step": str(self.step)}
        temporary = self.folder / ".bundled.tmp"
        save_file(half, temporary, metadata={**card, "seconds": f"{self.seconds:.0f}"})
        os.replace(temporary, self.folder / "bundled.safetensors")

    def _resume(self, say: Callable[[str], None]) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} belongs to another recipe: choose another folder")
        self.student.load_state_dict(state["student"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.scales, self.step = state["scales"], state["step"]
        self.seconds = state["seconds"]
        say(f"resuming at step {self.step}")


def _initialise(network: nn.Module) -> None:
    # Children come after their block, so the zeros of a residual branch are set last.
    for module in reversed(list(network.modules())):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)

