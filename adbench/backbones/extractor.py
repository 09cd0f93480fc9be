"""Frozen feature extractors over timm and the bundled network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from adbench.backbones.bundled_network import CHANNELS, MEAN, STD, STRIDES, BundledNetwork
from adbench.errors import UserError, nearest

BUNDLED = "bundled"
_DARKEST = 1 / 255  # mean grey below which an image is not made brighter still


class FeatureExtractor(nn.Module):
    """Maps of chosen layers; frozen, always in eval mode, cut after the last layer read.

    Args:
        name: ``bundled``, or a timm model name with its tag (``wide_resnet50_2.tv_in1k``).
        layers: names as timm's feature info gives them (``layer2``, ``blocks.5``) or indices
            into that list, in the order in which maps are returned; each once.
        mean, std: per channel, for images in 0..1; None takes those the weights were trained with.
        exposure: mean grey in 0..1 that every image is multiplied to before the network sees it,
            so that a brighter picture of the same part has the same features; None leaves it.
        padding: ``zeros``, as trained, or ``reflect``: convolutions go on beyond the border with
            the picture mirrored in it, so that the border is no edge. Nothing changes in a
            network that pads nowhere.

    Attributes:
        channels, strides: of every returned map.
        config: keyword arguments that rebuild the architecture with untrained values.
        record: name, source, path and sha256 of the weights, for run.json.

    Raises:
        UserError: no such network, tag or layer, or one whose maps timm cannot give.

    The constructor reads no weights: ``build_backbone`` does.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[str | int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        exposure: float | None = None,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        if isinstance(layers, str) or not isinstance(layers, Sequence):
            raise UserError(f"backbone.layers={layers}: a list is expected, e.g. [{layers}]")
        if not layers:
            raise UserError(f"backbone {name}: no layer to read; set backbone.layers")
        if exposure is not None and not 0 < exposure <= 1:
            raise UserError(
                f"backbone.exposure={exposure}: a mean grey above 0, at most 1, or null"
            )
        self.exposure = exposure
        self.name = name
        known = _known_layers(name)
        self.layers = [_layer_name(name, known, layer) for layer in layers]
        for layer in self.layers:
            if self.layers.count(layer) > 1:
                raise UserError(f"backbone {name}: layer '{layer}' is named more than once")
        self.channels = [known[layer][0] for layer in self.layers]
        self.strides = [known[layer][1] for layer in self.layers]
        wanted = sorted({list(known).index(layer) for layer in self.layers})
        self._positions = [wanted.index(list(known).index(layer)) for layer in self.layers]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # untrained values are the same in every process
            self.network, own = _created(name, list(known), wanted)
        if padding != "zeros" and (kind := _pad(self.network, padding)):
            raise UserError(
                f"backbone.padding={padding}: backbone {name} pads in its own way ({kind}); set "
                "backbone.padding=zeros"
            )
        self._channels_last = getattr(self.network, "output_fmt", None) == "NHWC"  # Swin
        mean, std = list(mean or own[0]), list(std or own[1])
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        # A transformer reads whole patches only; the image is continued to the next multiple.
        self._patch = self.strides[0] if name != BUNDLED and _takes_any_size(name) else 1
        self.config: dict[str, Any] = {
            "name": name,
            "layers": list(self.layers),
            "mean": mean,
            "std": std,
            "exposure": exposure,
            "padding": padding,
        }
        self.record: dict[str, Any] = {
            "name": name,
            "source": "random",
            "path": None,
            "sha256": None,
        }
        self.requires_grad_(False)
        self.train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the layers' maps [B, C, h, w] of images [B, 3, H, W] in 0..1."""
        if self.exposure is not None:
            grey = image.float().mean((1, 2, 3), keepdim=True).clamp_min(_DARKEST)
            image = image * (self.exposure / grey).to(image.dtype)
        image = (image - self.mean) / self.std
        below, right = (-side % self._patch for side in image.shape[-2:])
        if below or right:
            image = functional.pad(image, (0, right, 0, below), mode="replicate")
        if image.device.type == "cpu":  # convolutions are a quarter faster
            image = image.contiguous(memory_format=torch.channels_last)
        try:
            maps = self.network(image)
        except AssertionError as error:  # how timm's networks of one fixed size say so
            raise UserError(
                f"backbone {self.name}: {error}; set dataset.image_size to that size, or take "
                "another backbone"
            ) from error
        if self._channels_last:
            maps = [found.permute(0, 3, 1, 2).contiguous() for found in maps]
        return [maps[position] for position in self._positions]

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode whatever is asked: running statistics never move."""
        return super().train(False)


def _known_layers(name: str) -> dict[str, tuple[int, int]]:
    """Return layer -> (channels, stride), in the order in which they run.

    Raises:
        UserError: no such network.
    """
    if name == BUNDLED:
        names = [f"layer{number}" for number in (1, 2, 3)]
        return dict(zip(names, zip(CHANNELS, STRIDES, strict=True), strict=True))
    import timm

    if not timm.is_model(name.split(".")[0]) or name.endswith("."):
        near = nearest(name.split(".")[0], [BUNDLED, *timm.list_models()])
        raise UserError(f"no backbone '{name}' in timm{near}")
    try:
        with torch.device("meta"):
            features = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:  # timm raises what it likes on tags and networks without features
        raise UserError(_why_not(name, error)) from error
    info: list[dict[str, Any]] = features.feature_info.info  # type: ignore[union-attr, assignment]
    return {entry["module"]: (entry["num_chs"], entry["reduction"]) for entry in info}


def _why_not(name: str, error: Exception) -> str:
    import timm

    base, _, tag = name.partition(".")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{base}.*")]
    if "." in name and tag not in tags:
        listed = f" (known: {', '.join(tags[:6])})" if tags else ""
        return f"backbone {base} has no weights under the tag '{tag}'{nearest(tag, tags)}{listed}"
    why = str(error).partition("\n")[0][:150]
    return f"backbone {name}: timm cannot give its layers' maps ({why}); take another"


def _layer_name(name: str, known: dict[str, tuple[int, int]], layer: str | int) -> str:
    names = list(known)
    if isinstance(layer, str) and layer in known:
        return layer
    if isinstance(layer, int) and not isinstance(layer, bool) and -len(names) <= layer < len(names):
        return names[layer]
    hint = nearest(str(layer), names)
    raise UserError(f"backbone {name} has no layer '{layer}'{hint} (layers: {', '.join(names)})")


def _created(
    name: str, names: Sequence[str], wanted: Sequence[int]
) -> tuple[nn.Module, tuple[Sequence[float], Sequence[float]]]:
    """Return the untrained network, cut, and the mean and deviation its weights expect."""
    if name == BUNDLED:
        return BundledNetwork([names[i] for i in wanted]), (MEAN, STD)
    import timm

    keys: dict[str, Any] = {"pretrained": False, "features_only": True, "out_indices": wanted}
    if any(layer.startswith("blocks.") for layer in names) and _takes_any_size(name):
        keys["dynamic_img_size"] = True
    network = timm.create_model(name, **keys)
    config = timm.get_pretrained_cfg(name)
    return network, ((config.mean, config.std) if config else (MEAN, STD))


def _pad(network: nn.Module, mode: str) -> str | None:
    """Let all convolutions that pad do so by ``mode``; return a kind that cannot, or None.

    A network that pads nowhere, a transformer of patches, has no such border to begin with.
    """
    for module in list(network.modules()):
        for name, part in module.named_children():
            if not isinstance(part, nn.Conv2d) or part.kernel_size == (1, 1):
                continue
            if type(part) is not nn.Conv2d:
                return type(part).__name__
            if part.padding != (0, 0):
                setattr(module, name, _padded(part, mode))
    return None


def _padded(conv: nn.Conv2d, mode: str) -> nn.Conv2d:
    with torch.device("meta"):  # its values are replaced
        made = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
            mode,  # type: ignore[arg-type]
        )
    made.weight, made.bias = conv.weight, conv.bias
    return made


def _takes_any_size(name: str) -> bool:
    import timm

    module = timm.model_entrypoint(name.split(".")[0]).__module__
    return module.rpartition(".")[2] in ("vision_transformer", "eva", "deit")
