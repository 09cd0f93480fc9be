"""The state of a stage's training: taken up exactly, refused where it is not its own."""

from __future__ import annotations

import pytest
import torch

from adbench.diffusion.checkpoint import restored_step, save_training
from adbench.errors import UserError


def parts():
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": optimizer}


def test_a_training_is_taken_up_as_it_was(tmp_path):
    first, other = parts(), parts()
    save_training(tmp_path / "a.ckpt", 7, first)
    assert restored_step(tmp_path / "a.ckpt", other) == 7
    assert torch.equal(first["network"].weight, other["network"].weight)
    moments = [each["optimizer"].state_dict()["state"][0]["exp_avg"] for each in (first, other)]
    assert torch.equal(*moments)
    assert restored_step(tmp_path / "none.ckpt", other) == 0


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x80\x04."])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="remove it to begin again"):
        restored_step(tmp_path / "a.ckpt", parts())


def test_the_state_of_another_training_is_refused(tmp_path):
    save_training(tmp_path / "a.ckpt", 1, {"network": torch.nn.Linear(5, 2)})
    with pytest.raises(UserError, match="remove it to begin again"):
        restored_step(tmp_path / "a.ckpt", parts())
