"""Builds anomalib's models without a download, with weights that our rules have loaded."""

from __future__ import annotations

import contextlib
import importlib
import unittest.mock
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from adbench.errors import UserError


class Wrapped(NamedTuple):
    """What one of anomalib's classes wants.

    Attributes:
        name: of the class.
        reads: ``layers`` of a timm network, a timm ``network`` whose layers it chooses itself, a
            ``vit`` whose blocks it chooses itself, or ``nothing``.
        one_pass: its fit is a pass over the features and no steps.
        sized: it is built for one image size.
        alone: its maps depend on the other pictures of a batch, so that each is scored alone.
    """

    name: str
    reads: Literal["layers", "network", "vit", "nothing"] = "layers"
    one_pass: bool = False
    sized: bool = False
    alone: bool = False


CLASSES = {
    "patchcore": Wrapped("Patchcore", one_pass=True),
    "padim": Wrapped("Padim", one_pass=True),
    "stfpm": Wrapped("Stfpm"),
    "supersimplenet": Wrapped("Supersimplenet"),
    "reverse_distillation": Wrapped("ReverseDistillation", sized=True),
    "cflow": Wrapped("Cflow", alone=True),  # divides by the largest density of a batch
    "fastflow": Wrapped("Fastflow", "network", sized=True),
    "draem": Wrapped("Draem", "nothing"),
    "dinomaly": Wrapped("Dinomaly", "vit"),
    "inp_former": Wrapped("InpFormer", "vit"),
}
# Their training fetches files of its own accord, and offers no way to hand them over.
DOWNLOADING = {
    "efficient_ad": "weights of its teacher and the data set Imagenette",
    "dsr": "weights of its quantised autoencoder",
    "csflow": "weights of EfficientNet-B5 from torchvision",
    "cfa": "weights of its network from torchvision",
    "winclip": "weights of CLIP",
}
_AFTER = ("norm.", "fc_norm.", "head.")  # of a vision transformer, behind the blocks that are read
# Nothing of theirs may touch a picture, a score or a map but the model itself.
_OFF = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)


def built(
    method: str,
    backbone: str | None,
    layers: Sequence[str],
    options: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None,
    size: tuple[int, int],
) -> Any:
    """Return anomalib's Lightning module of a method.

    Args:
        backbone, layers: timm name and layers to read.
        options: further keyword arguments of its constructor.
        weights: of the backbone, by timm's names; None leaves it untrained, to be loaded later.
        size: working (height, width).

    Raises:
        UserError: the package is missing, does not know an option, or would need other weights.
    """
    try:
        module = importlib.import_module(f"anomalib.models.image.{method}")
    except ImportError as error:
        raise UserError(
            f"model=anomalib/{method} needs the package anomalib ({error}): "
            "pip install 'adbench[baselines]'"
        ) from error
    wrapped = CLASSES[method]
    made = getattr(module, wrapped.name)
    plain = None if backbone is None else backbone.partition(".")[0]  # some know no tags
    own: dict[str, dict[str, Any]] = {
        "layers": {"backbone": plain, "layers": list(layers)},
        "network": {"backbone": plain},
        "vit": {"encoder_name": plain},
        "nothing": {},
    }
    keys = {**own[wrapped.reads], **_OFF, **options}
    if wrapped.sized:  # told by way of a pre-processor, which is taken away again
        keys["pre_processor"] = made.configure_pre_processor(size)
    with _without_downloads(weights):
        try:
            found = made(**keys)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.options: {error}") from error
    found.pre_processor = None
    found.log = found.log_dict = _unlogged
    return found


def check_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse what would begin with a download.

    Raises:
        UserError: names what is needed.
    """
    if method in DOWNLOADING:
        raise UserError(
            f"model=anomalib/{method} would download {DOWNLOADING[method]}; it is not wrapped: "
            "nothing is fetched behind your back"
        )
    textures = options.get("dtd_dir")
    if method == "draem" and (textures is None or not Path(str(textures)).is_dir()):
        raise UserError(
            "model=anomalib/draem takes its textures from a folder: model.options.dtd_dir=FOLDER "
            "(DTD's images); anomalib would download them"
        )


def stub_trainer(epochs: int, steps: int, batches: Callable[[], Any]) -> SimpleNamespace:
    """Return what their modules ask a trainer for: length, progress, batches.

    Args:
        epochs, steps: of the whole training.
        batches: returns a collection of their batches.
    """
    data = SimpleNamespace(train_dataloader=batches)
    return SimpleNamespace(max_epochs=epochs, max_steps=steps, global_step=0, datamodule=data)


def _unlogged(*arguments: Any, **keys: Any) -> None:
    """Take what their modules log; history.csv has the loss."""


@contextlib.contextmanager
def _without_downloads(weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Within it, timm makes networks untrained and loads ``weights`` where trained ones are asked.

    anomalib asks timm for trained weights by name in most constructors; those of a file have no
    other way in.
    """
    import timm

    create = timm.create_model

    def created(model_name: str, pretrained: bool = False, **keys: Any) -> nn.Module:
        network: nn.Module = create(model_name, pretrained=False, **keys)
        if pretrained and weights is not None:
            _load(network, model_name, weights)
        return network

    with unittest.mock.patch.object(timm, "create_model", created):
        yield


def _load(network: nn.Module, name: str, weights: Mapping[str, Tensor]) -> None:
    try:
        missing = network.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        told = " ".join(str(error).split())[:160]
        raise UserError(f"the backbone's weights do not fit {name} ({told})") from error
    absent = [key for key in missing if not key.startswith(_AFTER)]
    if absent:
        raise UserError(
            f"this model reads {name} beyond the layers that were loaded ({absent[0]} is "
            "missing) and would have to download it; name the layers it reads in model.layers"
        )
