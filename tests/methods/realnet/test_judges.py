"""Parity with the authors' released functions (stored reference arrays)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adbench.methods.realnet.blocks import Block, BlockFeatures, upsampled
from adbench.methods.realnet.detector import image_score
from adbench.methods.realnet.discriminator import Discriminator
from adbench.methods.realnet.losses import reconstruction_loss, segmentation_loss
from adbench.methods.realnet.reconstruction import ReconstructionUNet
from adbench.methods.realnet.residuals import ResidualSelection
from adbench.methods.realnet.selection import channel_losses, kept_channels
from adbench.methods.realnet.settings import ReconstructionKeys
from adbench.methods.realnet.weights import discriminator_state

pytestmark = pytest.mark.shared


@pytest.fixture(scope="session")
def judge(shared):
    def read(name):
        arrays = np.load(shared / "judges" / "methods" / "realnet" / f"{name}.npz")
        return {key: torch.from_numpy(arrays[key]) for key in arrays}

    return read


@pytest.mark.parametrize("plain", [False, True])
def test_afs_losses_and_indices(judge, plain):
    d = judge("afs")

    def maps(kind, number):
        one, two = d[f"{kind}_layer1_{number}"], d[f"{kind}_layer2_{number}"]
        return [one, upsampled(two, (16, 16)), two]

    pairs = [(maps("anom", b), maps("normal", b), d[f"mask_{b}"]) for b in range(3)]
    names = ("block1_layer1", "block1_layer2", "block2_layer2")
    for name, loss in zip(names, channel_losses(pairs, plain=plain), strict=True):
        expected = d[f"loss_{name}"]
        assert torch.allclose(loss.float(), expected, atol=1e-6), name
        index = d[f"index_{name}"].long()
        assert torch.equal(kept_channels(loss, len(index)), index), name


def test_afs_gathered_features(judge):
    d = judge("afs")
    blocks = (Block((0, 1), (7, 9), 4), Block((1,), (10,), 8))
    features = BlockFeatures(blocks, (16, 24))
    features.choose(0, 0, d["index_block1_layer1"].long())
    features.choose(0, 1, d["index_block1_layer2"].long())
    features.choose(1, 0, d["index_block2_layer2"].long())
    one, two = features([d["anom_layer1_0"], d["anom_layer2_0"]])
    assert torch.allclose(one, d["selected_block1_0"], atol=1e-6)
    assert torch.equal(two, d["selected_block2_0"])


def test_reconstruction_network(judge):
    d = judge("recon")
    keys = ReconstructionKeys(mult=(1, 2), blocks=1, attention=(2,), head_channels=16)
    net = ReconstructionUNet(8, 32, keys)
    net.load_state_dict({k[2:]: v for k, v in d.items() if k.startswith("w/")}, strict=True)
    x = d["x"].clone().requires_grad_()
    y = net(x)
    (y * d["cotangent"]).sum().backward()
    assert torch.allclose(y, d["y"], rtol=1e-4, atol=1e-4)
    assert torch.allclose(x.grad, d["grad_x"], rtol=1e-4, atol=1e-4)
    for name, parameter in net.named_parameters():
        if f"grad/{name}" in d:
            expected = d[f"grad/{name}"]
            assert torch.allclose(parameter.grad, expected, rtol=1e-4, atol=1e-3), name


class _Head(torch.nn.Module):
    def __init__(self, plain):
        super().__init__()
        self.residuals = ResidualSelection(40, 6, 6, plain=plain)
        self.discriminator = Discriminator(12, 2)

    def forward(self, blocks):
        return self.discriminator(self.residuals(blocks), (64, 64))


@pytest.fixture(params=[False, True], ids=["fast", "plain"])
def head(judge, request):
    d = judge("rrs")
    made = _Head(request.param)
    state = {k[2:]: v for k, v in d.items() if k.startswith("w/")}
    state["decoder1.2.num_batches_tracked"] = torch.tensor(0)
    made.load_state_dict(discriminator_state(state), strict=True)
    return made


def test_rrs_in_eval(judge, head):
    d = judge("rrs")
    head.eval()
    blocks = [d["res1"], d["res2"]]
    logits = head(blocks)
    assert torch.allclose(logits, d["eval_logit"], rtol=1e-4, atol=1e-5)
    assert torch.allclose(logits.softmax(1)[:, 1:], d["eval_map"], rtol=1e-4, atol=1e-5)
    expected = torch.cat([d["eval_index_max"], d["eval_index_mean"]], 1).long()
    assert torch.equal(head.residuals.chosen(blocks, (16, 16)), expected)


def test_rrs_in_training(judge, head):
    d = judge("rrs")
    head.train()
    blocks = [d["res1"].clone().requires_grad_(), d["res2"].clone().requires_grad_()]
    logits = head(blocks)
    loss = segmentation_loss(logits, d["mask"])
    loss.backward()
    assert torch.allclose(logits, d["train_logit"], rtol=1e-4, atol=1e-5)
    assert loss.item() == pytest.approx(d["train_ce"].item(), rel=1e-5)
    for block, name in zip(blocks, ("grad_res1", "grad_res2"), strict=True):
        # Residuals are squares: where one is 0, the chain ends there and its gradient is moot
        # (the authors' first ReLU sets it to 0; ours leaves that ReLU out).
        reached = block.detach() > 0
        assert torch.allclose(block.grad[reached], d[name][reached], rtol=1e-4, atol=1e-8), name
    mean, var = d["bn_idx_running_mean_after"], d["bn_idx_running_var_after"]
    assert torch.allclose(head.residuals.running_mean, mean, rtol=1e-5, atol=1e-6)
    assert torch.allclose(head.residuals.running_var, var, rtol=1e-5, atol=1e-6)


def test_rrs_training_indices(judge):
    d = judge("rrs")
    expected = torch.cat([d["train_index_max"], d["train_index_mean"]], 1).long()
    selection = ResidualSelection(40, 6, 6).train()
    assert torch.equal(selection.chosen([d["res1"], d["res2"]], (16, 16)), expected)


def test_reconstruction_loss(judge):
    d = judge("rrs")
    made = [d["loss_recon1"], d["loss_recon2"]]
    loss = reconstruction_loss(made, [d["loss_target1"], d["loss_target2"]])
    assert loss.item() == pytest.approx(d["loss_mse"].item(), rel=1e-6)


def test_image_score(judge):
    d = judge("score")
    assert torch.allclose(image_score(d["map"][:, None], 16), d["image_score"], atol=1e-5)
