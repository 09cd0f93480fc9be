"""Parity with stored numbers of the authors' functions."""

import numpy as np
import pytest
import torch

from adbench.diffusion.adm import AdmNetwork, AdmShape
from adbench.diffusion.hybrid import hybrid_terms
from adbench.diffusion.openai import from_openai, load_openai
from adbench.diffusion.sampling import ancestral_step, clean_estimate, ddim_step
from adbench.diffusion.schedule import (
    linear_schedule,
    log_variance,
    noised,
    posterior_mean,
    respaced,
)
from adbench.errors import UserError

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def sdas(shared):
    with np.load(shared / "judges/methods/realnet/sdas.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def adm(shared):
    with np.load(shared / "judges/methods/realnet/adm.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


ADM = AdmShape(width=32, multipliers=(1, 2), blocks=1, attention=(2,), head=16)


def close(a, b, rtol=1e-5, atol=1e-5):
    torch.testing.assert_close(a.float(), b.float(), rtol=rtol, atol=atol)


def test_respaced_tables(sdas):
    found = respaced(linear_schedule(), 20)
    assert found.timesteps.tolist() == sdas["timesteps"].int().tolist() == list(range(0, 1000, 50))
    close(found.betas, sdas["betas"])
    close(found.alphas_cumprod, sdas["alphas_cumprod"], atol=1e-8)
    close(found.posterior_variance, sdas["posterior_variance"], atol=1e-8)
    close(found.posterior_log_variance, sdas["posterior_log_variance_clipped"])


@pytest.mark.parametrize("i", [0, 1, 10, 19])
def test_reverse_steps(sdas, i):
    schedule = respaced(linear_schedule(), 20)
    x, eps, v = sdas["x"], sdas["eps"], sdas["v"]
    x0 = clean_estimate(schedule, x, i, eps)
    close(x0, sdas[f"pred_x0_i{i}"])
    close(posterior_mean(schedule, x0, x, i), sdas[f"mean_i{i}"])
    close(log_variance(schedule, v, i), sdas[f"log_variance_i{i}"])
    output, noise = torch.cat([eps, v], 1), sdas[f"noise_{i}"]
    for s in (0.0, 0.1, 0.2, 1.0):
        strength = torch.tensor([s])
        name = f"i{i}_s{s}"
        plain = ancestral_step(schedule, i, x, output, noise, strength)
        close(plain, sdas[f"sample_{name}"])
        guided = ancestral_step(schedule, i, x, output, noise, strength, sdas["guidance_grad"])
        close(guided, sdas[f"sample_{name}_guided"])
        close(ddim_step(schedule, i, x, output, noise, strength), sdas[f"ddim_{name}"])


def test_training_terms_and_gradients(sdas):
    schedule, step = linear_schedule(), sdas["train_t"].long()
    x0, noise = sdas["train_x0"], sdas["train_noise"]
    xt = noised(schedule, x0, step, noise)
    close(xt, sdas["train_xt"])
    eps = sdas["train_eps"].clone().requires_grad_(True)
    v = sdas["train_v"].clone().requires_grad_(True)
    terms = hybrid_terms(schedule, x0, xt, step, noise, torch.cat([eps, v], 1))
    close(terms.mse, sdas["train_mse"])
    close(terms.vb, sdas["train_vb_bits"], rtol=1e-4)
    terms.total(0.001, 1000).backward()
    close(eps.grad, sdas["train_grad_eps"])
    close(v.grad, sdas["train_grad_v"])


def weights_of(adm):
    return {name[2:]: value for name, value in adm.items() if name.startswith("w/")}


def output_of(network, adm):
    with torch.no_grad():
        return network.eval()(adm["x"], adm["t"].long(), adm["y"].long())


def test_converted_checkpoint_gives_the_authors_output(adm, tmp_path):
    torch.save(weights_of(adm), tmp_path / "small.pt")
    network = AdmNetwork(ADM, classes=3)
    load_openai(network, tmp_path / "small.pt")
    difference = (output_of(network, adm) - adm["out"]).abs().max()
    assert difference < 1e-5 * adm["out"].abs().max()


def test_swapping_query_and_key_is_noticed(adm):
    network = AdmNetwork(ADM, classes=3)
    state = from_openai(weights_of(adm), ADM)
    swap = {"to_q": "to_k", "to_k": "to_v", "to_v": "to_q"}
    for name in list(state):
        for letter, other in swap.items():
            if f".{letter}." in name:
                state[f"!{name}"] = state[name.replace(letter, other)]
    for name in [n for n in state if n.startswith("!")]:
        state[name[1:]] = state.pop(name)
    network.load_state_dict(state)
    assert (output_of(network, adm) - adm["out"]).abs().max() > 1e-2


def test_other_number_of_classes_keeps_its_own_embedding(adm, tmp_path):
    torch.save(weights_of(adm), tmp_path / "small.pt")
    network = AdmNetwork(ADM, classes=5)
    before = network.label_embedding.weight.clone()
    load_openai(network, tmp_path / "small.pt")
    assert torch.equal(network.label_embedding.weight, before)
    assert network.unet.conv_in.weight.equal(weights_of(adm)["input_blocks.0.0.weight"])


def test_weights_of_another_shape_are_refused(adm, tmp_path):
    torch.save(weights_of(adm), tmp_path / "small.pt")
    with pytest.raises(UserError, match=r"fits another network|has no place"):
        load_openai(AdmNetwork(AdmShape(32, (1, 2, 2), 1, (2,), 16), 3), tmp_path / "small.pt")
