"""Checkpoints under the authors' names."""

import pytest
import torch
from torch import nn

from adbench.errors import UserError
from adbench.methods.discriminator import Head
from adbench.methods.glass.weights import ours, published_detector, read_checkpoint, theirs


class Theirs(nn.Module):
    """Modules nested and named as in the release."""

    def __init__(self, width, hidden):
        super().__init__()
        self.pre_projection = nn.Module()
        self.pre_projection.layers = nn.Sequential()
        self.pre_projection.layers.add_module("0fc", nn.Linear(width, width))
        self.discriminator = nn.Module()
        self.discriminator.body = nn.Sequential()
        block = nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.LeakyReLU(0.2))
        self.discriminator.body.add_module("block1", block)
        self.discriminator.tail = nn.Sequential(nn.Linear(hidden, 1, bias=False), nn.Sigmoid())

    def forward(self, rows):
        adapted = self.pre_projection.layers(rows)
        return self.discriminator.tail(self.discriminator.body(adapted))

    def checkpoint(self):
        return {
            "pre_projection": self.pre_projection.state_dict(),
            "discriminator": self.discriminator.state_dict(),
        }


def test_their_weights_score_the_same_under_our_names(tmp_path, extractor):
    network = Theirs(24, 16)
    network(torch.randn(50, 24))
    network.eval()
    torch.save(network.checkpoint(), tmp_path / "ckpt.pth")
    head = Head(24, 16)
    head.load_state_dict(read_checkpoint(tmp_path / "ckpt.pth"))
    head.eval()
    rows = torch.randn(9, 24)
    with torch.no_grad():
        scores = torch.sigmoid(head.discriminator(head.adapted(rows)))
        assert torch.allclose(scores, network(rows)[:, 0], atol=1e-6)
        detector = published_detector(tmp_path / "ckpt.pth", extractor, (64, 64))
        assert detector(torch.rand(1, 3, 64, 64)).score.shape == (1,)


def test_names_go_there_and_back():
    state = Head(8, 4).state_dict()
    back = ours(theirs(state))
    assert back.keys() == state.keys()
    assert (
        Theirs(8, 4).checkpoint()["discriminator"].keys() == theirs(state)["discriminator"].keys()
    )


def test_other_networks_are_refused(tmp_path):
    with pytest.raises(UserError, match="no parameter of GLASS"):
        ours({"discriminator": {"body.block2.0.weight": torch.zeros(1)}})
    with pytest.raises(UserError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(UserError, match="cannot be read"):
        read_checkpoint(tmp_path / "text.pth")
