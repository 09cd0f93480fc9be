"""One iteration: the release's numbers, and the fast form against the plain one."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adbench.methods.aggregation import PatchFeatures
from adbench.methods.discriminator import Head
from adbench.methods.glass.fast_step import FastStep
from adbench.methods.glass.plain_step import StepInputs, StepKeys, plain_losses
from adbench.methods.glass.settings import GasKeys, LossKeys

NAMES = {
    "A": "adaptor.weight",
    "bA": "adaptor.bias",
    "W1": "discriminator.hidden.weight",
    "b1": "discriminator.hidden.bias",
    "gamma": "discriminator.norm.weight",
    "beta": "discriminator.norm.bias",
    "w2": "discriminator.output.weight",
}
CASES = ["manifold", "hypersphere", "no_mining", "no_ohem"]


def plain(head, normal, local, inputs, keys):
    loss, parts = plain_losses(
        head, normal.rows(), None if local is None else local.rows(), inputs, keys
    )
    loss.backward()
    return loss, parts


def fast(head, normal, local, inputs, keys):
    return FastStep(head, normal, local, inputs, keys).run()


def loaded(judge):
    head = Head(24, 16).double().train()
    state = {name: torch.from_numpy(judge[f"init_{key}"]) for key, name in NAMES.items()}
    state["discriminator.output.weight"] = state["discriminator.output.weight"].view(1, 16)
    head.load_state_dict(state, strict=False)
    return head.double()


def rows_of(array):
    part = torch.from_numpy(array).double().view(2, 6, 6, 24)
    return PatchFeatures([part], [(0, 24)], (6, 6), 24)


@pytest.mark.shared
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [plain, fast])
def test_a_whole_optimiser_step_equals_the_release(shared, case, step):
    judge = np.load(shared / f"judges/methods/glass/train_step_{case}.npz")
    spherical = bool(judge["svd"])
    head = loaded(judge)
    gas = GasKeys(sigma=0.15, ascent=case != "no_mining", project=case != "no_mining")
    keys = StepKeys(gas, LossKeys(ohem=0.0 if case == "no_ohem" else 0.5), True)
    inputs = StepInputs(
        torch.from_numpy(judge["noise"]).double(),
        torch.from_numpy(judge["mask_small"]).double().flatten(),
        torch.from_numpy(judge["centre"]).double() if spherical else None,
    )
    normal, local = rows_of(judge["features_normal"]), rows_of(judge["features_las"])
    optimisers = [
        torch.optim.Adam(head.adaptor.parameters(), 1e-4, weight_decay=1e-5),
        torch.optim.AdamW(head.discriminator.parameters(), 2e-4),
    ]
    loss, parts = step(head, normal, local, inputs, keys)
    assert loss.item() == pytest.approx(float(judge["loss_total"]), abs=1e-5)
    assert float(parts["las"]) == pytest.approx(float(judge["focal_value"]), abs=1e-5)
    noise = {"b1"} if spherical else {"b1", "bA"}
    parameters = dict(head.named_parameters())
    for key in NAMES.keys() - noise:
        wanted = judge[f"grad_{key}"]
        ours = parameters[NAMES[key]].grad.numpy().reshape(wanted.shape)
        np.testing.assert_allclose(ours, wanted, atol=1e-5)
    norm = head.discriminator.norm
    np.testing.assert_allclose(norm.running_mean.numpy(), judge["running_mean_after"], atol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), judge["running_var_after"], atol=1e-5)
    for optimiser in optimisers:
        optimiser.step()
    for key in NAMES.keys() - noise:
        wanted = judge[f"after_{key}"]
        ours = parameters[NAMES[key]].detach().numpy().reshape(wanted.shape)
        np.testing.assert_allclose(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("hidden", [16, 64], ids=["hidden_space", "feature_space"])
@pytest.mark.parametrize("spherical", [False, True], ids=["manifold", "hypersphere"])
@pytest.mark.parametrize("adaptor", [True, False])
@pytest.mark.parametrize("every_pass", [True, False])
def test_fast_equals_plain(small, hidden, spherical, adaptor, every_pass):
    switches = itertools.product((True, False), repeat=4)
    for seed, (project, ascent, noise, las) in enumerate(switches):
        if not (ascent or noise or las):
            continue
        head, normal, local = small(seed, hidden, adaptor=adaptor)
        reference = copy.deepcopy(head)
        gas = GasKeys(sigma=0.15, project=project, ascent=ascent, noise=noise, step_size=0.02)
        inputs = StepInputs(
            torch.randn(72, 24).double() * gas.scale,
            (torch.rand(72) < 0.2).double() if las else None,
            torch.randn(36, 24).double() * 0.1 if spherical else None,
        )
        keys = StepKeys(gas, LossKeys(las="bce" if noise else "focal", las_weight=0.3), every_pass)
        wanted, wanted_parts = plain(reference, normal, local if las else None, inputs, keys)
        found, parts = fast(head, normal, local if las else None, inputs, keys)
        assert float(found) == pytest.approx(float(wanted), abs=1e-9)
        assert parts.keys() == wanted_parts.keys()
        for name, value in parts.items():
            assert float(value) == pytest.approx(float(wanted_parts[name]), abs=1e-9), name
        for (name, ours), theirs in zip(
            head.named_parameters(), reference.parameters(), strict=True
        ):
            other = torch.zeros_like(theirs) if theirs.grad is None else theirs.grad
            assert float((ours.grad - other).norm()) <= 1e-7 * float(other.norm()) + 1e-12, name
        for ours, theirs in zip(head.buffers(), reference.buffers(), strict=True):
            assert torch.allclose(ours.double(), theirs.double(), atol=1e-9)


@pytest.mark.parametrize("hidden", [16, 64], ids=["hidden_space", "feature_space"])
@pytest.mark.parametrize("spherical", [False, True], ids=["manifold", "hypersphere"])
@pytest.mark.parametrize("off", [{"ascent": False}, {"steps": 0}], ids=["no_ascent", "no_steps"])
def test_without_ascent_the_noise_is_clamped(small, hidden, spherical, off):
    head, normal, local = small(1, hidden)
    gas = GasKeys(sigma=0.15, r1=3.0, r2=3.1, **off)
    centre = torch.randn(36, 24).double() * 0.1 if spherical else None
    inputs = StepInputs(torch.randn(72, 24).double() * 0.15, None, centre)
    step = FastStep(head, normal, local, inputs, StepKeys(gas, LossKeys(), True))
    _, parts = step.run()
    low, high = step.radii.gas
    base = centre.repeat(2, 1) if spherical else head.adapted(normal.rows())
    rows = step.gas.rows + step.missing - head.discriminator.hidden.bias
    direct = base @ head.discriminator.hidden.weight.mT
    if hidden >= 24:  # W1 has full rank: the rows tell the distance
        offset = torch.linalg.lstsq(head.discriminator.hidden.weight, (rows - direct).mT).solution
        distance = torch.linalg.vector_norm(offset, dim=0)
        assert float(distance.min()) >= float(low) - 1e-6
        assert float(distance.max()) <= float(high) + 1e-6
    assert float(parts["clamped"]) > (0.1 if spherical else 0.99)


def test_updates_of_several_steps_stay_equal(small):
    head, normal, local = small(5)
    reference = copy.deepcopy(head)
    keys = StepKeys(GasKeys(sigma=0.15), LossKeys(), True)
    ways = [(head, fast), (reference, plain)]
    optimisers = [torch.optim.AdamW(owner.parameters(), 1e-3) for owner, _ in ways]
    for seed in range(4):
        torch.manual_seed(seed)
        inputs = StepInputs(
            torch.randn(72, 24).double() * 0.15, (torch.rand(72) < 0.2).double(), None
        )
        for (owner, step), optimiser in zip(ways, optimisers, strict=True):
            optimiser.zero_grad()
            step(owner, normal, local, inputs, keys)
            for name in ("adaptor.bias", "discriminator.hidden.bias"):  # rounding noise in both
                dict(owner.named_parameters())[name].grad.zero_()
            optimiser.step()
    for ours, theirs in zip(head.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-8)


def test_biases_before_the_normalisation_get_no_gradient(small):
    head, normal, local = small(2)
    inputs = StepInputs(torch.randn(72, 24).double(), (torch.rand(72) < 0.2).double(), None)
    plain(head, normal, local, inputs, StepKeys(GasKeys(), LossKeys(), True))
    assert float(head.adaptor.bias.grad.abs().max()) < 1e-12
    assert float(head.discriminator.hidden.bias.grad.abs().max()) < 1e-12


def test_without_projection_rows_move_at_most_the_sum_of_the_steps(small):
    from adbench.methods.glass.ascent import FeatureRows, ascend
    from adbench.methods.glass.batch_norm import block_of, moments

    head, normal, _ = small(3, 64)
    block = block_of(head.discriminator)
    start = torch.randn(72, 24).double() * 0.1
    base = normal.rows() @ block.weight.mT
    gas = FeatureRows(start, base, block.weight)
    keys = GasKeys(project=False)
    one = base.new_ones(())
    ascend(gas, moments(base), block, keys, (one, one), lambda norm: None)
    moved = torch.linalg.vector_norm(gas.offset - start, dim=1)
    assert float(moved.max()) <= 0.02 + 1e-12
    assert float(moved.min()) > 0


def test_normal_scores_change_when_gas_rows_change(small):
    head, normal, _ = small(4)
    rows = head.adapted(normal.rows())
    logits = [
        head.discriminator(torch.cat([rows, rows + shift]), track=False)[: len(rows)]
        for shift in (0.1, 3.0)
    ]
    assert not torch.allclose(*logits)


def test_running_statistics_after_22_updates_follow_the_closed_form(small):
    head, normal, _ = small(6)
    rows = head.adapted(normal.rows())
    hidden = head.discriminator.hidden(rows)
    for _ in range(22):
        head.discriminator(rows)
    kept = 0.9**22
    wanted = kept * 0.0 + (1 - kept) * hidden.mean(0)
    assert torch.allclose(head.discriminator.norm.running_mean, wanted)


@pytest.mark.shared
def test_discriminator_equals_the_release(shared):
    judge = np.load(shared / "judges/methods/glass/discriminator.npz")
    get = lambda name: torch.from_numpy(judge[name]).double()  # noqa: E731
    head = Head(24, 16).double()
    head.load_state_dict(
        {
            "adaptor.weight": get("A_weight"),
            "adaptor.bias": get("A_bias"),
            "discriminator.hidden.weight": get("W1"),
            "discriminator.hidden.bias": get("b1"),
            "discriminator.norm.weight": get("bn_weight"),
            "discriminator.norm.bias": get("bn_bias"),
            "discriminator.norm.running_mean": get("running_mean_before"),
            "discriminator.norm.running_var": get("running_var_before"),
            "discriminator.norm.num_batches_tracked": torch.tensor(0),
            "discriminator.output.weight": get("w2").view(1, 16),
        }
    )
    head.eval()
    x = get("x")
    adapted = head.adapted(x)
    assert torch.allclose(adapted, get("adapted"), atol=1e-5)
    scores = torch.sigmoid(head.discriminator(adapted))
    assert torch.allclose(scores, get("score_eval")[:, 0], atol=1e-5)
    weight, bias, output = head.folded()
    folded = torch.sigmoid(F.leaky_relu(x @ weight.mT + bias, 0.2) @ output)
    assert torch.allclose(folded, scores, atol=1e-12)
    head.train()
    trained = torch.sigmoid(head.discriminator(head.adapted(x)))
    assert torch.allclose(trained, get("score_train")[:, 0], atol=1e-5)
    trained.backward(get("upstream")[:, 0])
    norm = head.discriminator.norm
    for name, value in (
        ("grad_A_weight", head.adaptor.weight.grad),
        ("grad_W1", head.discriminator.hidden.weight.grad),
        ("grad_bn_weight", norm.weight.grad),
        ("grad_bn_bias", norm.bias.grad),
        ("grad_w2", head.discriminator.output.weight.grad.view_as(get("grad_w2"))),
        ("running_mean_after", norm.running_mean),
        ("running_var_after", norm.running_var),
    ):
        assert torch.allclose(value, get(name), atol=1e-5), name


@pytest.mark.parametrize("hidden", [16, 64], ids=["hidden_space", "feature_space"])
def test_bfloat16_directions_stay_near(small, hidden):
    head, normal, local = small(7, hidden)
    other = copy.deepcopy(head)
    inputs = StepInputs(torch.randn(72, 24).double() * 0.15, (torch.rand(72) < 0.2).double(), None)
    found = [
        fast(
            owner, normal, local, inputs, StepKeys(GasKeys(sigma=0.15, bf16=bf16), LossKeys(), True)
        )
        for owner, bf16 in ((head, False), (other, True))
    ]
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-4)
    assert float(found[0][0]) != float(found[1][0])
