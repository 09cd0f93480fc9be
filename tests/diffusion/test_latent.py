"""Facts about autoencoders, their stage and what they preserve."""

from __future__ import annotations

import json

import pytest
import torch

from adbench.diffusion.latent.autoencoder_stage import gradient_error
from adbench.diffusion.latent.autoencoders import (
    Posterior,
    SmallAutoencoder,
    Unshuffle,
    autoencoder_of,
)
from adbench.diffusion.latent.base import built_diffusion
from adbench.diffusion.latent.ddim import Ddim
from adbench.diffusion.latent.preservation import Preservation
from adbench.diffusion.latent.settings import AutoencoderKeys
from adbench.errors import UserError
from adbench.runs.stages import run_stages
from tests.methods.glad.conftest import Squares, datamodule, diffusion  # noqa: F401


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_the_control_loses_nothing():
    image, model = drawn(2, 3, 16, 24), Unshuffle()
    latent = model.encode(image)
    assert latent.shape == (2, 192, 2, 3)
    assert torch.equal(model.decode(latent), image)


@pytest.mark.parametrize("kind", ["pca", "lapped"])
@pytest.mark.parametrize("channels", [1, 16, 192])
def test_components_lose_the_discarded_variance(kind, channels):
    image = drawn(40, 3, 16, 16)
    model = autoencoder_of(AutoencoderKeys(kind=kind, channels=channels))
    variances = model.fit(model.folded(image).permute(0, 2, 3, 1).reshape(-1, 192))
    lost = (model.decode(model.encode(image)) - image).square().mean() * 192
    assert float(lost) == pytest.approx(float(variances[channels:].sum()), rel=1e-3, abs=1e-4)


def test_the_small_one_shrinks_eightfold_and_back():
    model = autoencoder_of(AutoencoderKeys(widths=(8, 16), channels=4))
    assert isinstance(model, SmallAutoencoder)
    image = drawn(1, 3, 32, 64)
    assert model.encode(image).shape == (1, 4, 4, 8)
    assert model.decode(model.encode(image)).shape == image.shape
    count = sum(p.numel() for p in autoencoder_of(AutoencoderKeys()).parameters())
    assert count == pytest.approx(0.44e6, rel=0.05)


def test_a_unit_posterior_does_not_diverge():
    zero = torch.zeros(1, 2, 3, 3)
    assert float(Posterior(zero, zero).divergence()) == 0
    shifted = Posterior(zero + 1, zero)
    assert float(shifted.divergence()) == pytest.approx(0.5)


def test_the_error_of_gradients_ignores_brightness():
    image = drawn(1, 3, 8, 8)
    assert float(gradient_error(image + 0.3, image)) < 1e-6
    assert float(gradient_error(image.flip(3), image)) > 0.1


def stages_of(model):
    from adbench.backbones.extractor import FeatureExtractor

    torch.manual_seed(0)
    features = FeatureExtractor(name="resnet18", layers=["layer1"])
    return model.stages(
        features=features,
        synthesis=Squares(),
        seed=0,
        size=(32, 32),
        device=torch.device("cpu"),
        check=lambda data: None,
    )


@pytest.mark.parametrize("kind", ["small", "pca", "lapped", "unshuffle"])
def test_the_stage_measures_what_is_preserved(kind, datamodule, tmp_path):  # noqa: F811
    model, said = diffusion(kind), []
    run_stages(stages_of(model), tmp_path, datamodule, say=said.append)
    figures = json.loads((tmp_path / "autoencoder" / "preservation.json").read_text())
    assert (tmp_path / "autoencoder" / "preservation.png").is_file()
    assert any(line.startswith("autoencoder and defects: floor") for line in said)
    if kind == "unshuffle":
        assert figures["floor"] == pytest.approx(0, abs=1e-5)
        assert figures["retention"] == pytest.approx(1, abs=1e-3)
        assert figures["ceiling"] == pytest.approx(figures["ideal"], abs=1e-5)
        assert figures["pixels"] == pytest.approx(0, abs=1e-4)
        assert not any("WARNING" in line for line in said)
    again = diffusion(kind)
    again.restore(tmp_path)
    image = (drawn(2, 3, 32, 32) + 1) / 2
    assert torch.equal(again.encode(image), model.encode(image))
    latents = torch.cat([model.encode(b.image) for b in datamodule.train_batches()])
    spread = latents.transpose(0, 1).flatten(1)
    assert torch.allclose(spread.mean(1), torch.zeros(model.channels), atol=1e-3)
    assert float(spread.square().mean()) == pytest.approx(1, abs=1e-3)


def test_an_interrupted_stage_goes_on_to_the_same_weights(datamodule, tmp_path, monkeypatch):  # noqa: F811
    from adbench.diffusion.latent import autoencoder_stage

    whole = diffusion("small", save_every=1)
    run_stages(stages_of(whole), tmp_path / "whole", datamodule, say=lambda line: None)
    model = diffusion("small", save_every=1)
    step = autoencoder_stage._Training._step

    def interrupted(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(autoencoder_stage._Training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages_of(model), tmp_path / "parts", datamodule, say=lambda line: None)
    monkeypatch.setattr(autoencoder_stage._Training, "_step", step)
    resumed = diffusion("small", save_every=1)
    run_stages(stages_of(resumed), tmp_path / "parts", datamodule, say=lambda line: None)
    said = []
    run_stages(
        stages_of(diffusion("small", save_every=1)), tmp_path / "parts", datamodule, say=said.append
    )
    assert said == ["stage autoencoder: finished before, kept"]
    for name, value in whole.state_dict().items():
        if not name.startswith("network."):
            assert torch.equal(value, resumed.state_dict()[name]), name


def test_an_autoencoder_of_another_shape_is_refused(datamodule, tmp_path):  # noqa: F811
    run_stages(stages_of(diffusion("pca")), tmp_path, datamodule, say=lambda line: None)
    with pytest.raises(UserError, match="belongs to another autoencoder"):
        diffusion("small").restore(tmp_path)
    with pytest.raises(UserError, match="is missing"):
        diffusion("small").restore(tmp_path / "nowhere")


def test_a_lossy_autoencoder_is_warned_about():
    report = Preservation(0.2, 0.3, 0.97, 0.9, 0.85, 0.5)
    lines = report.lines()
    assert "keeps 30% of synthetic defects" in lines[1]
    assert "costs 7.0 points" in lines[2]
    assert len(Preservation(0.0, 0.9, 0.97, 0.96, 0.9, 0.1).lines()) == 1


def test_predictions_of_v_of_a_flow_and_of_the_noise_mean_the_same():
    for prediction in ("epsilon", "v", "flow", "edm"):
        model = diffusion("unshuffle", prediction=prediction)
        clean, noise = drawn(2, 192, 2, 2), drawn(2, 192, 2, 2, seed=1)
        time = torch.tensor([10, 700])
        from adbench.diffusion.schedule import noised

        model.deviation.copy_(torch.linspace(0.02, 3, 192).view(1, -1, 1, 1))
        sample = noised(model.schedule, clean, time, noise)
        output = model.target(clean, noise, time)
        assert torch.allclose(model.noise_of(output, sample, time), noise, atol=1e-5)


def test_a_ddim_step_of_a_flow_is_eulers_step_of_the_library():
    from diffusers import FlowMatchEulerDiscreteScheduler

    model = diffusion("unshuffle", prediction="flow")
    ddim = Ddim(model.schedule, 700, 7)
    high, low = 301, 201
    signal = model.schedule.alphas_cumprod[[high, low]].float()
    size = signal.sqrt() + (1 - signal).sqrt()
    share = ((1 - signal).sqrt() / size).tolist()
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=share)
    latent, velocity = drawn(2, 192, 2, 2), drawn(2, 192, 2, 2, seed=1)
    step = scheduler.step(velocity, scheduler.timesteps[0], latent / float(size[0]))
    noise = model.noise_of(velocity, latent, torch.tensor([high, high]))
    ours = ddim.after(ddim.clean(latent, high, noise), high, noise)
    assert torch.allclose(ours / float(size[1]), step.prev_sample, atol=1e-6)


def test_the_last_convolution_starts_at_zero():
    model = diffusion("unshuffle")
    latent = drawn(1, 192, 4, 4)
    time, label = torch.tensor([5]), torch.tensor([0])
    assert not model.output(model.network, latent, time, label).any()


def test_a_rebuilt_model_is_the_same():
    model = diffusion("pca")
    model.set_classes(["a", "b"], torch.Generator().manual_seed(0))
    torch.nn.init.normal_(model.network.conv_out.weight)
    again = built_diffusion(model.config)
    again.load_state_dict(model.state_dict())
    latent, time = drawn(2, 8, 4, 4), torch.tensor([5, 900])
    both = [m.noise(latent, time, torch.tensor([0, 1])) for m in (model, again)]
    assert torch.equal(*both)
    swapped = model.noise(latent, time, torch.tensor([1, 0]))
    assert not torch.allclose(both[0], swapped)
