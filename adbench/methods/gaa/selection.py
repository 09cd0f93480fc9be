"""Which state of the localisation network counts: the best on held-out synthetic pairs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from adbench.methods.gaa.pairs import PairSet

EACH = 10  # every tenth canvas's pairs are held out
_LOOKS = (0.5, 0.8, 0.9)  # shares of the budget at whose ends a state is looked at; and its end
_MOST, _BATCH = 32, 8  # held-out pairs that are looked at


def divided(canvases: Sequence[int], types: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return positions of the pairs to train on and of those held out.

    Pairs are held out by their canvas: each of its pairs or none. Nothing is held out where that
    would leave a type without pairs to train on.
    """
    held = [i for i, canvas in enumerate(canvases) if canvas % EACH == 0]
    rest = [i for i, canvas in enumerate(canvases) if canvas % EACH != 0]
    if {types[i] for i in rest} != set(types):
        return list(range(len(canvases))), []
    return rest, held


class Best(nn.Module):
    """The best state so far, in the checkpoint with the rest of the training.

    Args:
        network: whose states are looked at.
    """

    value: Tensor
    looks: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.register_buffer("value", torch.tensor(-1.0))
        self.register_buffer("looks", torch.tensor(0))

    def due(self, progress: float) -> bool:
        """Whether the share of the budget that is spent has passed another look."""
        return int(self.looks) < sum(progress >= share for share in _LOOKS)

    def look(self, network: nn.Module, held: PairSet, progress: float) -> float:
        """Keep the network's state where it is better than the one before; return its AP."""
        found = pixel_ap(network, held)
        self.looks.fill_(max(sum(progress >= share for share in _LOOKS), int(self.looks) + 1))
        if found >= float(self.value):  # of equal ones the later
            self.value.fill_(found)
            self.network.load_state_dict(network.state_dict())
        return found


@torch.no_grad()
def pixel_ap(network: nn.Module, held: PairSet) -> float:
    """Return the pixels' average precision on held-out pairs, type after type in turn."""
    from sklearn.metrics import average_precision_score

    device = next(network.parameters()).device
    order = np.argsort(_ranks(held.types), kind="stable")[:_MOST]
    was = network.training
    network.eval()
    scores, truth = [], []
    for at in range(0, len(order), _BATCH):
        image, mask, _ = held.tensors(order[at : at + _BATCH])
        said = network(image.to(device)).float().softmax(1)[:, 1:]
        scores.append(said.flatten().cpu().numpy())
        truth.append(mask.flatten().numpy())
    network.train(was)
    return float(average_precision_score(np.concatenate(truth), np.concatenate(scores)))


def _ranks(types: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Return the position of each pair among those of its type."""
    ranks = np.zeros(len(types), dtype=np.int64)
    for name in np.unique(types):
        ranks[types == name] = np.arange(int((types == name).sum()))
    return ranks
