"""Facts about targets, walks and fusion, in closed form or against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adbench.diffusion.latent.ddim import Ddim, scaled_linear_schedule
from adbench.errors import UserError
from adbench.methods.glad.adaptive_steps import AdaptiveSteps, Difference, Rules, fixed_steps
from adbench.methods.glad.atp import (
    defect_weight,
    implied_clean,
    mixed,
    repairing_noise,
    squared_error,
)
from adbench.methods.glad.fusion import fused, fusion_mask
from adbench.methods.glad.settings import SaffKeys

SCHEDULE = scaled_linear_schedule()
SIGNAL = SCHEDULE.alphas_cumprod


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The target


@given(st.lists(st.integers(0, 999), min_size=3, max_size=3), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_the_corrected_target_leads_to_the_normal_latent(levels, seed):
    normal, damaged, noise = (drawn(3, 2, 4, 4, seed=seed + i) for i in range(3))
    time = torch.tensor(levels)
    estimate = repairing_noise(SCHEDULE, normal, damaged, noise, time)
    found = implied_clean(SCHEDULE, damaged, noise, estimate, time)
    assert torch.allclose(found, normal, atol=1e-5)


def test_the_printed_target_doubles_the_defect():
    normal, damaged, noise = (drawn(4, 2, 4, 4, seed=i) for i in range(3))
    time = torch.tensor([1, 300, 750, 999])
    estimate = repairing_noise(SCHEDULE, normal, damaged, noise, time, sign="minus")
    found = implied_clean(SCHEDULE, damaged, noise, estimate, time)
    assert torch.allclose(found, normal + 2 * (damaged - normal), atol=1e-5)


def test_a_linear_model_fitted_to_either_target_repairs_or_doubles():
    """A toy whose n is known: a constant defect, and the best answer that depends on t alone."""
    time = torch.tensor([500])
    normal, defect = drawn(400, 1, 1, 1), torch.ones(400, 1, 1, 1, dtype=torch.float64)
    noise = drawn(400, 1, 1, 1, seed=1)
    damaged = normal + defect
    for sign, expected in (("plus", 0.0), ("minus", 2.0)):
        target = repairing_noise(SCHEDULE, normal, damaged, noise, time, sign=sign)
        # least squares of the target on (noise, 1): what a network that knows both would learn
        rows = torch.stack((noise.flatten(), torch.ones(400, dtype=torch.float64)), 1)
        weights = torch.linalg.lstsq(rows, target.flatten()[:, None]).solution
        answer = (rows @ weights).view_as(noise)
        left = implied_clean(SCHEDULE, damaged, noise, answer, time) - normal
        assert torch.allclose(left, expected * defect, atol=1e-6)


def test_without_a_defect_the_target_is_the_noise():
    normal, noise = drawn(2, 2, 3, 3), drawn(2, 2, 3, 3, seed=1)
    time = torch.tensor([3, 900])
    assert torch.equal(repairing_noise(SCHEDULE, normal, normal, noise, time), noise)


def test_the_gradient_of_the_loss_is_that_of_a_mean():
    target, pred = drawn(2, 2, 3, 3), drawn(2, 2, 3, 3, seed=1).requires_grad_()
    squared_error(pred, target).backward()
    assert torch.allclose(pred.grad, 2 * (pred.detach() - target) / target.numel())


def test_mixing_bounds_the_weight_of_the_defect():
    time = torch.arange(1000)
    weight = defect_weight(SCHEDULE, time, torch.zeros(1000, 1, 1, 1, dtype=torch.float64))
    share = weight.flatten() * time / 1000
    assert share.max() == pytest.approx(0.361, abs=1e-3)
    assert int(share.argmax()) == 281
    assert weight.max() == pytest.approx(34.3, abs=0.05)
    normal, damaged = drawn(2, 1, 2, 2), drawn(2, 1, 2, 2, seed=1)
    ends = mixed(normal, damaged, torch.tensor([0, 1000]))
    assert torch.equal(ends[0], normal[0])
    assert torch.equal(ends[1], damaged[1])


def test_the_bound_of_k_repairs_in_part():
    normal, damaged, noise = (drawn(1, 1, 2, 2, seed=i) for i in range(3))
    time = torch.tensor([100])
    k = float(defect_weight(SCHEDULE, time, normal))
    estimate = repairing_noise(SCHEDULE, normal, damaged, noise, time, k_max=k / 2)
    found = implied_clean(SCHEDULE, damaged, noise, estimate, time)
    assert torch.allclose(found, (normal + damaged) / 2)


# The levels


def test_levels_and_last_signal():
    ddim = Ddim(SCHEDULE, 750, 25)
    assert ddim.times[:2] == [721, 691]
    assert ddim.times[-1] == 1
    assert [Ddim(SCHEDULE, t, n).times[0] for t, n in ((600, 25), (450, 15))] == [577, 421]
    clean, noise = drawn(1, 1, 2, 2), drawn(1, 1, 2, 2, seed=1)
    expected = SIGNAL[0].sqrt() * clean + (1 - SIGNAL[0]).sqrt() * noise
    assert torch.allclose(ddim.after(clean, 1, noise), expected)


@pytest.mark.parametrize(("start", "count"), [(10, 11), (0, 1), (999, 999), (1000, 1000)])
def test_walks_that_do_not_fit_are_refused(start, count):
    if (start, count) == (999, 999):
        assert Ddim(SCHEDULE, start, count).times[0] == 999
        return
    with pytest.raises(UserError, match="does not fit"):
        Ddim(SCHEDULE, start, count)


# The walk, with oracles for the network


def compare_by(score):
    """Comparison whose S is ``score(test, walk)`` and whose A is S everywhere."""

    def compare(test, walk):
        found = score(test, walk)
        return Difference(found, found.view(-1, 1, 1, 1).expand(-1, 1, *test.shape[-2:]).clone())

    return compare


def distance(test, walk):
    return (test - walk).abs().amax((1, 2, 3))


def test_a_network_that_names_the_noise_never_leaves_the_image():
    latent, noise = drawn(3, 2, 4, 4), drawn(3, 2, 4, 4, seed=1)
    ddim = Ddim(SCHEDULE, 750, 25)
    steps = AdaptiveSteps(
        ddim, lambda x, t, rows: noise[rows], compare_by(distance), Rules(1e-6, 350)
    )
    final, decision = steps(latent, noise)
    assert not decision.crossed.any()
    assert [ddim.times[i] for i in decision.index] == [331] * 3
    expected = SIGNAL[0].sqrt() * latent + (1 - SIGNAL[0]).sqrt() * noise
    assert torch.allclose(final, expected, atol=1e-10)


def perfect_repair(ddim, normal):
    def predict(sample, time, rows):
        signal = SIGNAL[time].view(-1, 1, 1, 1)
        return (sample - signal.sqrt() * normal[rows]) / (1 - signal).sqrt()

    return predict


def test_a_perfect_repair_shows_the_accumulated_defect():
    normal, damaged, noise = (drawn(2, 1, 3, 3, seed=i) for i in range(3))
    ddim = Ddim(SCHEDULE, 750, 25)
    predict = perfect_repair(ddim, normal)
    final = fixed_steps(ddim, predict, damaged, noise)
    signal = SIGNAL[0]
    left = final - signal.sqrt() * normal  # the normal image and the rest of the noise
    assert left.abs().max() < 4 * (1 - signal).sqrt() * (noise.abs().max() + 10)
    steps = AdaptiveSteps(ddim, predict, compare_by(distance), Rules(math.inf, 350))
    walk = steps.differences(damaged, noise).score
    assert (walk.diff(dim=1) > 0).all()  # the distance of a perfect repair grows at every step


def test_difference_is_the_accumulated_error_of_the_noise():
    """u - u-hat = (z_t - z-hat_t) / sqrt(a_t) = sum of (sigma_j - sigma_j+1)(e_j - noise)."""
    latent, noise = drawn(2, 1, 3, 3), drawn(2, 1, 3, 3, seed=1)
    ddim = Ddim(SCHEDULE, 600, 20)
    errors = drawn(20, 2, 1, 3, 3, seed=2)
    call = iter(range(20))
    steps = AdaptiveSteps(
        ddim,
        lambda x, t, rows: noise + 0.1 * errors[next(call)],
        compare_by(distance),
        Rules(math.inf, 2),
    )
    steps._latent, steps._noise, steps._begin, steps.first = latent, noise, None, 1
    walk, rows = steps.walked(), torch.arange(2)
    sigma = ((1 - SIGNAL) / SIGNAL).sqrt()
    total = torch.zeros_like(latent)
    for number, time in enumerate(ddim.times):
        test, own = steps.estimates(walk.sample[number], walk.noise[number], time, rows)
        direct = ddim.noised(latent, time, noise) - walk.sample[number]
        assert torch.allclose(test - own, direct / SIGNAL[time].sqrt(), atol=1e-9)
        assert torch.allclose(test - own, total, atol=1e-9)
        if number + 1 < len(ddim.times):
            below = ddim.times[number + 1]
            total = total + (sigma[time] - sigma[below]) * 0.1 * errors[number]


def scripted(scores, delta, stop, search="sequential"):
    """Walks of images whose S sequences are given, [B][steps]."""
    table = torch.tensor(scores, dtype=torch.float64)
    count, length = table.shape
    ddim = Ddim(SCHEDULE, 10 * length, length)
    latent = torch.arange(count, dtype=torch.float64).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    noise = torch.zeros_like(latent)
    seen = []

    def compare(test, walk):
        rows = test.flatten(1)[:, 0].round().long()
        found = (
            table[rows, at[0]]
            if not isinstance(at[0], dict)
            else torch.stack([table[r, at[0][int(r)]] for r in rows])
        )
        seen.append(len(rows))
        return Difference(found, torch.zeros(len(rows), 1, 2, 2, dtype=torch.float64))

    at = [0]
    # An exact network: the clean estimate of image b is b, at every step.
    steps = AdaptiveSteps(ddim, perfect_repair(ddim, latent), compare, Rules(delta, stop, search))
    estimates = steps.estimates

    def noted(sample, own, time, rows):
        if isinstance(time, torch.Tensor):
            index = [ddim.times.index(int(t)) for t in time]
            at[0] = {int(r): i for r, i in zip(rows, index, strict=True)}
        else:
            at[0] = ddim.times.index(time)
        return estimates(sample, own, time, rows)

    steps.estimates = noted
    _, decision = steps(latent, noise)
    return [ddim.times[i] for i in decision.index], decision.crossed.tolist(), seen


LEVELS = [41, 31, 21, 11, 1]


def test_first_crossing_fallback_and_equality():
    scores = [[0, 1, 5, 9, 9], [0, 5, 5, 5, 9], [0, 1, 1, 1, 1], [0, 6, 1, 1, 1]]
    times, crossed, _ = scripted(scores, delta=5, stop=12)
    assert crossed == [True, False, False, True]  # S = delta does not cross
    assert times == [11, 11, 11, 31]  # the first level below t_min = 12 is 11; 31 crossed
    times, crossed, _ = scripted(scores[:3], delta=5, stop=11)
    assert crossed == [True, True, False]  # t = t_min does not trigger, t < t_min does
    assert times == [11, 1, 1]


def test_infinite_and_zero_thresholds():
    scores = [[0, 0, 2, 3, 4], [0, 1, 2, 3, 4]]
    _, crossed, _ = scripted(scores, delta=math.inf, stop=25)
    assert not any(crossed)
    times, crossed, _ = scripted(scores, delta=0, stop=2)
    assert crossed == [True, True]
    assert times == [21, 31]


@given(
    st.lists(
        st.lists(st.integers(0, 9), min_size=5, max_size=5).map(lambda x: [0, *sorted(x[1:])]),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 9),
    st.sampled_from([2, 12, 22]),
)
@settings(max_examples=40, deadline=None)
def test_every_search_finds_the_first_crossing_where_differences_grow(scores, delta, stop):
    expected = scripted(scores, delta, stop)[:2]
    for search in ("last_first", "bisect"):
        assert scripted(scores, delta, stop, search)[:2] == expected


def test_searches_differ_where_a_difference_shrinks_again():
    falling = [[0, 9, 9, 1, 1]]
    assert scripted(falling, 5, 12)[1] == [True]
    assert scripted(falling, 5, 12, "last_first")[1] == [False]
    dented = [[0, 9, 1, 1, 9]]
    assert scripted(dented, 5, 2)[0] == [31]
    assert scripted(dented, 5, 2, "last_first")[0] == [31]
    assert scripted(dented, 5, 2, "bisect")[0] == [1]


def test_the_search_compares_normal_images_once():
    normal = [[0, 1, 1, 1, 1]] * 3
    assert sum(scripted(normal, 5, 2)[2]) == 3 * 4  # the walk's first step is never compared
    assert sum(scripted(normal, 5, 2, "last_first")[2]) == 3


def test_a_start_above_the_chosen_step():
    """restart=n goes on from the estimate noised n steps higher; images that fell back do not."""
    normal, damaged, noise = (drawn(2, 1, 3, 3, seed=i) for i in range(3))
    damaged[1] = normal[1]
    ddim = Ddim(SCHEDULE, 600, 20)
    passes = {}
    for restart in (0, 3):
        rules = Rules(0.5, 300, restart=restart, saff=SaffKeys(noise="original"))
        steps = AdaptiveSteps(ddim, perfect_repair(ddim, normal), compare_by(distance), rules)
        _, decision = steps(damaged, noise)
        assert decision.crossed.tolist() == [True, False]
        passes[restart] = steps.cost.passes
    # once more at the chosen step itself, and n times above it
    chosen = int(decision.index[0])
    assert passes[3] - passes[0] == min(3, chosen) + 1


@pytest.mark.parametrize("search", ["sequential", "last_first"])
def test_an_early_end_decodes_the_clean_estimate(search):
    normal, damaged, noise = (drawn(2, 1, 3, 3, seed=i) for i in range(3))
    damaged[1] = normal[1]
    ddim = Ddim(SCHEDULE, 600, 20)
    found = []
    for end in (0, 200):
        rules = Rules(0.5, 300, search, saff=SaffKeys("none"), end=end)
        steps = AdaptiveSteps(ddim, perfect_repair(ddim, normal), compare_by(distance), rules)
        final, decision = steps(damaged, noise)
        found.append(steps.cost.passes)
        assert decision.crossed.tolist() == [True, False]
        if end:
            assert torch.allclose(final, normal, atol=1e-8)  # no noise is left in it
            fixed = fixed_steps(ddim, perfect_repair(ddim, normal), damaged, noise, end=end)
            assert torch.allclose(fixed, normal, atol=1e-8)
    levels = sum(time <= 200 for time in ddim.times)
    assert found[0] - found[1] == 2 * (levels - 1)


def test_the_gate_skips_what_is_near_and_changes_nothing_else():
    normal, damaged, noise = (drawn(2, 1, 3, 3, seed=i) for i in range(3))
    damaged[1] = normal[1] + 0.01 * noise[1]
    ddim = Ddim(SCHEDULE, 600, 20)
    found = []
    for gate in (0.0, 0.2):
        rules = Rules(0.5, 300, gate=gate)
        steps = AdaptiveSteps(ddim, perfect_repair(ddim, normal), compare_by(distance), rules)
        final, decision = steps(damaged, noise)
        found.append((final, decision.index, steps.cost.comparisons))
    assert torch.allclose(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[1][2] < found[0][2]


# The fusion


def test_fusion_goes_from_the_test_image_to_the_walk():
    walk, test = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    ones = torch.ones(2, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(fused(walk, test, ones), walk)
    assert torch.equal(fused(walk, test, 0 * ones), test)
    mask = drawn(2, 1, 4, 4, seed=2).sigmoid()
    found = fused(walk, test, mask)
    share = (found - test) / (walk - test)
    assert torch.allclose(share, mask.expand_as(share))  # all channels share it


def test_masks_of_the_released_form_never_fall_below_a_half():
    difference = torch.linspace(0, 2, 9).view(1, 1, 3, 3)
    plain = fusion_mask(difference, 0.4, SaffKeys())
    assert plain.min() == 0.5
    assert plain.max() == pytest.approx(0.88, abs=0.001)
    centred = fusion_mask(torch.tensor([[[[0.0, 0.4, 1.0]]]]), 0.4, SaffKeys("sigmoid_centred"))
    assert centred[0, 0, 0, 0] < 1e-3
    assert centred[0, 0, 0, 1] == 0.5
    assert centred[0, 0, 0, 2] > 1 - 1e-3
    assert not fusion_mask(difference, 0.4, SaffKeys("none")).any()
