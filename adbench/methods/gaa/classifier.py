"""The network that names a defect's type: ResNet-34, or a head on the bundled features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adbench.backbones.bundled_network import MEAN, STD
from adbench.errors import UserError
from adbench.methods.gaa.settings import ClassifierKeys


class TypeNetwork(nn.Module):
    """Images [B, 3, H, W] in 0..1 to logits [B, types]; normalised as ImageNet's.

    Args:
        trunk: returns pooled features [B, D].
        width: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, width: int, types: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(width, types)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        found: Tensor = self.head(self.trunk((image - self.mean) / self.std))
        return found

    @torch.no_grad()
    def features(self, drawn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the trunk's features [B, D] of images, and their labels."""
        return self.trunk((drawn[0] - self.mean) / self.std), drawn[1]


_KNOWN = 30  # batches whose features a head learns from


class BundledTrunk(nn.Module):
    """Means and maxima of the bundled network's layers, frozen: [B, 2 * 448]."""

    width = 2 * 448

    def __init__(self) -> None:
        super().__init__()
        from adbench.backbones.bundled_network import BundledNetwork

        self.network = BundledNetwork().requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        maps = self.network(image)
        return torch.cat([f(m.flatten(2)) for m in maps for f in (_mean, _peak)], 1)

    def train(self, mode: bool = True) -> BundledTrunk:
        return super().train(False)


def _mean(values: Tensor) -> Tensor:
    return values.mean(-1)


def _peak(values: Tensor) -> Tensor:
    return values.amax(-1)


def type_network(kind: str, types: int) -> TypeNetwork:
    """Return the network, its weights untrained, drawn from the seed in force.

    Raises:
        UserError: no such network.
    """
    if kind == "resnet34":
        import timm

        trunk = timm.create_model("resnet34", pretrained=False, num_classes=0)
        return TypeNetwork(trunk, 512, types)
    if kind == "bundled":
        return TypeNetwork(BundledTrunk(), BundledTrunk.width, types)
    raise UserError(f"model.classifier.network={kind}: resnet34, bundled or none is expected")


def with_weights(network: TypeNetwork, keys: ClassifierKeys) -> str:
    """Load the trunk's published weights; return in words where they are from.

    ``weights`` names a file of resnet34 or ``random``; null asks the rules of backbones.

    Raises:
        UserError: they are not to be had; the ways out are named.
    """
    from adbench.backbones.weights import build_backbone

    if keys.network == "bundled":
        bundled = build_backbone(name="bundled", layers=["layer1", "layer2", "layer3"])
        network.trunk.network.load_state_dict(bundled.network.state_dict())  # type: ignore[union-attr, operator]
        return "bundled, frozen"
    if keys.weights == "random":
        return "random"
    layers = ["layer1", "layer2", "layer3", "layer4"]
    try:
        found = build_backbone(name="resnet34.tv_in1k", layers=layers, weights=keys.weights)
    except UserError as error:
        raise UserError(
            f"model.classifier: {error}; or model.classifier.network=bundled, or .weights=random"
        ) from error
    state = found.network.state_dict()
    network.trunk.load_state_dict(state, strict=False)
    return str(found.record["source"])


def check_weights(keys: ClassifierKeys) -> None:
    """Look for the published weights before anything trains.

    Raises:
        UserError: as ``with_weights``.
    """
    if keys.network == "resnet34" and keys.weights != "random":
        with_weights(type_network("resnet34", 2), keys)


def fitted(
    network: TypeNetwork,
    draw: Callable[[int], tuple[Tensor, Tensor]],
    keys: ClassifierKeys,
) -> float:
    """Train with cross-entropy on batches ``draw(step)``; return the last loss.

    The rate falls to a fifth at 80 % and again at 90 %, as published.
    """
    frozen = keys.network == "bundled"
    rate = (10 if frozen else 1) * keys.learning_rate
    trained = network.head if frozen else network
    optimizer = torch.optim.AdamW(trained.parameters(), lr=rate)
    network.train()
    # A frozen trunk's features are computed once; the head then sees these batches in turn.
    known = [network.features(draw(i)) for i in range(min(keys.steps, _KNOWN))] if frozen else []
    loss = torch.zeros(())
    for step in range(keys.steps):
        done = step / keys.steps
        optimizer.param_groups[0]["lr"] = rate * 0.2 ** ((done >= 0.8) + (done >= 0.9))
        if frozen:
            features, label = known[step % len(known)]
            logits = network.head(features)
        else:
            image, label = draw(step)
            logits = network(image)
        loss = nn.functional.cross_entropy(logits.float(), label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    network.eval()
    return float(loss.detach())
