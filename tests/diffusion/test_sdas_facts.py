"""Closed forms of the schedule, the sampler, the objective and the moving average."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adbench.config.typed import from_mapping
from adbench.diffusion.adm import PRESETS, AdmNetwork, AdmShape, adm_shape, unet_config
from adbench.diffusion.checkpoint import restored_step
from adbench.diffusion.classifier import NoisyClassifier, classifier_guidance
from adbench.diffusion.ema import average_weight, update_average
from adbench.diffusion.fitting import new_model
from adbench.diffusion.hybrid import gaussian_kl, hybrid_terms, pixel_log_likelihood
from adbench.diffusion.openai import from_openai, to_openai
from adbench.diffusion.pool import make_pool
from adbench.diffusion.sampling import ancestral_step, ddim_step, sampled
from adbench.diffusion.schedule import (
    denoised,
    linear_schedule,
    log_variance,
    noised,
    posterior_mean,
    respaced,
)
from adbench.diffusion.settings import FitKeys, NetworkKeys, PoolKeys
from adbench.errors import UserError

SHAPE = AdmShape(width=32, multipliers=(1, 2), blocks=1, attention=(2,), head=32)
TWENTY = respaced(linear_schedule(), 20)


def draws(*shape, seed=0, count=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_without_strength_a_step_is_the_schedulers_own():
    scheduler = DDPMScheduler(
        1000,
        1e-4,
        0.02,
        "linear",
        variance_type="learned_range",
        clip_sample=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(20)
    assert sorted(scheduler.timesteps.tolist()) == TWENTY.timesteps.tolist()
    x, eps, v = draws(2, 3, 8, 8)
    output = torch.cat([eps, v.tanh()], 1)
    for i in range(20):
        generator = torch.Generator().manual_seed(i)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        theirs = scheduler.step(output, int(TWENTY.timesteps[i]), x, generator=generator)
        ours = ancestral_step(TWENTY, i, x, output, noise, torch.zeros(2))
        torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=5e-5)


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 2), st.integers(1, 19))
def test_strength_scales_the_deviation_by_sqrt_one_plus_s(s, i):
    x, eps, noise = (d.double() for d in draws(1, 3, 4, 4))
    output = torch.cat([eps, eps.tanh()], 1)
    zero = torch.zeros(1, dtype=torch.float64)
    mean = ancestral_step(TWENTY, i, x, output, 0 * noise, zero)
    plain = ancestral_step(TWENTY, i, x, output, noise, zero) - mean
    strong = ancestral_step(TWENTY, i, x, output, noise, zero + s) - mean
    torch.testing.assert_close(strong, plain * math.sqrt(1 + s), rtol=1e-9, atol=1e-9)


def test_variance_of_a_step_grows_by_one_plus_s():
    x, eps, _ = draws(1, 3, 1, 1)
    output = torch.cat([eps, eps.tanh()], 1).expand(20000, -1, -1, -1)
    noise = torch.randn(20000, 3, 1, 1, generator=torch.Generator().manual_seed(5))
    args = (TWENTY, 10, x.expand(20000, -1, -1, -1), output, noise)
    plain = ancestral_step(*args, torch.zeros(20000)).var(0)
    strong = ancestral_step(*args, torch.full((20000,), 0.5)).var(0)
    torch.testing.assert_close(strong / plain, torch.full_like(plain, 1.5), rtol=1e-4, atol=0)
    sigma = log_variance(TWENTY, output[:1, 3:], 10).exp()[0]
    torch.testing.assert_close(plain, sigma, rtol=0.05, atol=0)


def test_last_step_depends_neither_on_strength_nor_on_noise():
    x, eps, noise = draws(2, 3, 4, 4)
    output = torch.cat([eps, eps.tanh()], 1)
    for step in (ancestral_step, ddim_step):
        one = step(TWENTY, 0, x, output, noise, torch.tensor([0.0, 0.0]))
        two = step(TWENTY, 0, x, output, -noise, torch.tensor([0.3, 3.0]))
        assert torch.equal(one, two)


@pytest.mark.parametrize("variance", ["learned", "beta", "posterior"])
def test_ddim_is_deterministic_at_zero_and_perturbed_by_s_sigma(variance):
    x, eps, noise = draws(1, 3, 4, 4)
    v = noise.tanh()
    output = torch.cat([eps, v], 1)
    zero = ddim_step(TWENTY, 7, x, output, noise, torch.zeros(1), variance=variance)
    again = ddim_step(TWENTY, 7, x, output, -noise, torch.zeros(1), variance=variance)
    assert torch.equal(zero, again)
    s = torch.full((1,), 0.02)
    moved = ddim_step(TWENTY, 7, x, output, noise, s, variance=variance) - zero
    sigma = {
        "learned": log_variance(TWENTY, v, 7).exp(),
        "beta": TWENTY.betas[7].float(),
        "posterior": TWENTY.posterior_variance[7].float(),
    }[variance]
    torch.testing.assert_close(moved, (0.02 * sigma).sqrt() * noise, rtol=1e-4, atol=1e-5)


def test_learned_variance_meets_both_ends():
    v = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    for i in (1, 5, 19):
        assert log_variance(TWENTY, v, i).exp().mean() == pytest.approx(TWENTY.betas[i].item())
        low = log_variance(TWENTY, -v, i).exp().mean()
        assert low == pytest.approx(TWENTY.posterior_variance[i].item())


def test_noise_estimate_recovers_the_image():
    x0, noise, _ = (d.double() for d in draws(3, 3, 4, 4))
    schedule, step = linear_schedule(), torch.tensor([0, 400, 999])
    found = denoised(schedule, noised(schedule, x0, step, noise), step, noise)
    torch.testing.assert_close(found, x0, rtol=1e-9, atol=1e-9)


def test_posterior_follows_from_bayes():
    schedule = linear_schedule()
    x0, x, _ = (d.double() for d in draws(1, 1, 2, 2))
    for t in (1, 37, 999):
        beta, before = schedule.betas[t], schedule.alphas_cumprod[t - 1]
        precision = (1 - beta) / beta + 1 / (1 - before)
        mean = ((1 - beta).sqrt() / beta * x + before.sqrt() / (1 - before) * x0) / precision
        torch.testing.assert_close(posterior_mean(schedule, x0, x, t), mean)
        assert schedule.posterior_variance[t] == pytest.approx((1 / precision).item())


def test_divergence_equals_torchs_and_the_variational_term_a_direct_computation():
    schedule = linear_schedule()
    x0, noise, other = (d.double() * 0.4 for d in draws(2, 3, 4, 4))
    step = torch.tensor([3, 600])
    xt = noised(schedule, x0, step, noise)
    v = other.tanh()
    terms = hybrid_terms(schedule, x0, xt, step, noise, torch.cat([other, v], 1).float())
    for row, t in enumerate(step.tolist()):
        one = slice(row, row + 1)
        log_var = log_variance(schedule, v[one], t)
        mean = posterior_mean(schedule, denoised(schedule, xt[one], t, other[one]), xt[one], t)
        true = posterior_mean(schedule, x0[one], xt[one], t)
        q = torch.distributions.Normal(true, schedule.posterior_variance[t].sqrt())
        p = torch.distributions.Normal(mean, (log_var / 2).exp())
        direct = torch.distributions.kl_divergence(q, p).mean() / math.log(2)
        assert terms.vb[row].item() == pytest.approx(direct.item(), rel=1e-4)


def test_likelihoods_of_all_pixel_values_sum_to_one():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.1, 0.05), (-0.95, 0.2), (0.99, 0.01)):
        like = pixel_log_likelihood(values, torch.tensor(mean), torch.tensor(math.log(std)))
        assert like.exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_bound_trains_the_variance_only():
    schedule = linear_schedule()
    x0, noise, output = draws(2, 3, 4, 4)
    output = torch.cat([output, output.tanh()], 1).requires_grad_(True)
    step = torch.tensor([0, 500])
    terms = hybrid_terms(schedule, x0, noised(schedule, x0, step, noise), step, noise, output)
    (gradient,) = torch.autograd.grad(terms.vb.sum(), output)
    assert not gradient[:, :3].any()
    assert gradient[:, 3:].abs().sum() > 0


def test_divergence_of_equal_gaussians_is_zero():
    mean, log_var, _ = draws(4)
    assert not gaussian_kl(mean, log_var, mean, log_var).any()


def test_average_equals_the_corrected_sum_and_forgets_its_start():
    decay, average, live = 0.9, nn.Linear(2, 2), nn.Linear(2, 2)
    history = []
    for step in range(1, 8):
        for parameter in live.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(step))
        history.append(live.weight.detach().clone())
        update_average(average, live, decay, step)
        weights = torch.tensor([(1 - decay) * decay ** (step - k) for k in range(1, step + 1)])
        direct = sum(w * h for w, h in zip(weights, history, strict=True)) / (1 - decay**step)
        torch.testing.assert_close(average.weight.detach(), direct)


def test_uncorrected_average_would_keep_a_quarter_of_its_start():
    left = 0.9999**14600
    assert left == pytest.approx(0.23, abs=0.005)
    kept = math.prod(1 - average_weight(0.9999, step) for step in range(1, 14601))
    assert kept == 0


def test_paper_preset_has_the_published_size():
    with torch.device("meta"):
        network = AdmNetwork.__new__(AdmNetwork)
        nn.Module.__init__(network)
        from diffusers import UNet2DModel

        unet = UNet2DModel(**unet_config(PRESETS["paper"], 3, 6))
    count = sum(p.numel() for p in unet.parameters()) + 1000 * 1024
    assert count == pytest.approx(553.84e6, abs=0.005e6)


@pytest.mark.parametrize(
    "shape",
    [SHAPE, AdmShape(32, (1, 1, 2), 2, (2, 4), 16), AdmShape(32, (1, 2), 1, (), 32)],
)
def test_openai_format_there_and_back(shape):
    network = AdmNetwork(shape, 4)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    state = from_openai(to_openai(network), shape)
    own = network.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)


def test_shapes_are_checked():
    assert adm_shape({"preset": "tiny", "width": 64}).width == 64
    with pytest.raises(UserError, match="did you mean 'small'"):
        adm_shape({"preset": "smal"})
    with pytest.raises(UserError, match="did you mean 'width'"):
        adm_shape({"widht": 64})
    with pytest.raises(UserError, match="multiple of 32"):
        adm_shape({"width": 40})


def test_new_network_predicts_zero():
    network = AdmNetwork(SHAPE, 2)
    output = network(torch.randn(2, 3, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 1]))
    assert output.shape == (2, 6, 8, 8)
    assert not output.any()


def test_an_image_does_not_depend_on_its_batch():
    network = AdmNetwork(SHAPE, 2).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    schedule = respaced(linear_schedule(), 4)

    def drawn(seeds):
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        label = torch.tensor([s % 2 for s in seeds])
        return sampled(network, schedule, label, 0.1 * label, generators, (8, 8))

    together = drawn([3, 4, 5])
    torch.testing.assert_close(together[1:2], drawn([4]), rtol=0, atol=1e-5)
    assert together.amin() >= 0
    assert together.amax() <= 1


def test_guidance_climbs_the_classifiers_probability():
    torch.manual_seed(0)
    classifier = NoisyClassifier(SHAPE, 3)
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([5, 700]), torch.tensor([0, 2])
    gradient = classifier_guidance(classifier, 2.0)(x, t, y)

    def chosen(images):
        return classifier(images, t).log_softmax(1).gather(1, y[:, None]).sum().item()

    rise = chosen(x + 1e-3 * gradient) - chosen(x - 1e-3 * gradient)
    assert rise == pytest.approx(1e-3 * gradient.square().sum().item(), rel=0.05)


class GaussianOracle(nn.Module):
    """The best estimate of noise and reverse variance for pixels drawn from N(0.3, 0.1^2)."""

    mean, deviation = 0.3, 0.1

    def forward(self, x, timestep, label):
        i = int(timestep[0]) // 50
        signal, rest = TWENTY.alphas_cumprod[i], 1 - TWENTY.alphas_cumprod[i]
        total = signal * self.deviation**2 + rest
        eps = (x - signal.sqrt() * self.mean) * rest.sqrt() / total
        slope = TWENTY.betas[i] * TWENTY.alphas_cumprod_prev[i].sqrt() / rest
        variance = TWENTY.posterior_variance[i] + slope**2 * self.deviation**2 * rest / total
        low, high = TWENTY.posterior_log_variance[i], TWENTY.betas[i].log()
        v = 2 * (variance.log() - low) / (high - low) - 1
        return torch.cat([eps, v.expand(x.shape)], 1).to(x.dtype)


def spread_by_recursion(s):
    """Deviation of samples in the linear case: var' = k^2 var + (1 + s) Sigma, a step at a time."""
    oracle, variance = GaussianOracle(), 1.0
    for i in reversed(range(20)):
        ends = [torch.full((1, 3, 1, 1), value, dtype=torch.float64) for value in (0.3, 0.4)]
        outputs = [oracle(x, TWENTY.timesteps[i : i + 1], None) for x in ends]
        zero = torch.zeros(1, dtype=torch.float64)
        low, high = (
            ancestral_step(TWENTY, i, x, output, 0 * x, zero).mean().item()
            for x, output in zip(ends, outputs, strict=True)
        )
        sigma = log_variance(TWENTY, outputs[0][:, 3:], i).exp().mean().item() if i else 0.0
        variance = ((high - low) / 0.1) ** 2 * variance + (1 + s) * sigma
    return math.sqrt(variance)


def drawn_from_oracle(s, form):
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    label, strength = torch.zeros(4, dtype=torch.int64), torch.full((4,), s)
    oracle = GaussianOracle()
    return sampled(oracle, TWENTY, label, strength, generators, (32, 32), form=form) * 2 - 1


@pytest.mark.parametrize("s", [0.0, 0.1, 0.2, 0.5])
def test_samples_of_a_perfect_model_spread_as_strength_says(s):
    found = drawn_from_oracle(s, "ancestral")
    assert found.mean().item() == pytest.approx(0.3, abs=0.01)
    assert found.std().item() == pytest.approx(spread_by_recursion(s), rel=0.03)
    if s == 0:
        assert found.std().item() == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize("form", ["ancestral", "ddim"])
def test_change_of_an_image_grows_with_strength(form):
    found = [drawn_from_oracle(s, form) for s in (0.0, 0.1, 0.2, 0.5)]
    change = [(image - found[0]).abs().mean().item() for image in found]
    assert 0 == change[0] < change[1] < change[2] < change[3]
    assert [i.std().item() for i in found] == sorted(i.std().item() for i in found)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"network": {"width": 40}}, r"^synthesis\.fit\.network\.width=40: a multiple of 32"),
        ({"network": {"head": 48}}, r"^synthesis\.fit\.network\.head=48 does not divide"),
        ({"classifier": {"width": 40}}, r"^synthesis\.fit\.classifier\.width=40"),
        ({"network": {"multipliers": []}}, r"^synthesis\.fit\.network\.multipliers="),
        ({"network": {"width": 2048, "multipliers": [16]}}, "e9 parameters"),
        ({"network": {"preset": "smal"}}, r"^synthesis\.fit\.network\.preset=smal.*'small'"),
        ({"size": 50}, r"^synthesis\.fit\.size=50: its network needs a multiple of 8"),
        ({"steps": 0}, r"^synthesis\.fit\.steps=0"),
    ],
)
def test_models_that_cannot_be_are_named_as_typed(keys, told):
    with pytest.raises(UserError, match=told):
        from_mapping(FitKeys, keys, "synthesis.fit")


@pytest.mark.parametrize("preset", ["small", "mini", "tiny"])
def test_the_estimated_number_of_weights_is_near(preset):
    with torch.device("meta"):
        network = AdmNetwork(PRESETS[preset], 1)
    true = sum(parameter.numel() for parameter in network.parameters())
    assert PRESETS[preset].parameters == pytest.approx(true, rel=0.3)


@pytest.mark.parametrize("content", [b"", b"half", b"\x80\x04"])
def test_a_damaged_checkpoint_of_a_fit_is_named(content, tmp_path):
    file = tmp_path / "sdas.ckpt"
    file.write_bytes(content)
    keys = FitKeys(NetworkKeys(multipliers=(1, 1), blocks=1, attention=()), size=16)
    model, live = new_model(keys, ["a"], 0)
    optimizer = torch.optim.Adam(live.parameters())
    with pytest.raises(UserError, match=r"sdas\.ckpt cannot be read.*remove it"):
        restored_step(file, {"model": model, "live": live, "optimizer": optimizer})


def test_pictures_that_are_not_finite_are_not_stored(tmp_path):
    keys = FitKeys(NetworkKeys(multipliers=(1, 1), blocks=1, attention=()), size=16)
    model, _ = new_model(keys, ["a"], 0)
    for parameter in model.network.parameters():
        parameter.fill_(torch.nan)
    with pytest.raises(UserError, match="diverged"):
        make_pool(model.eval(), tmp_path / "pool", PoolKeys(n=1, steps=2), seed=0, say=print)
    assert not (tmp_path / "pool" / "a").exists()
