"""A tiny complete pipeline in the published folder layout, saved by diffusers and read by us."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from adbench.diffusion.latent.base import built_diffusion
from adbench.diffusion.latent.ddim import Ddim
from adbench.diffusion.latent.stable import StableDiffusion
from adbench.errors import UserError

TOKENS, WIDTH = 5, 16


def tiny_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )


def tiny_vae():
    from diffusers import AutoencoderKL

    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
    )


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny-sd")
    tiny_unet().save_pretrained(root / "unet")
    tiny_vae().save_pretrained(root / "vae")
    scheduler().save_pretrained(root / "scheduler")
    generator = torch.Generator().manual_seed(2)
    rows = {
        name: torch.randn(TOKENS, WIDTH, generator=generator)
        for name in ("negative", "prompt", "prompt.nut")
    }
    save_file(rows, root / "prompts.safetensors")
    return root


@pytest.fixture
def model(folder):
    made = StableDiffusion(path=str(folder), embeddings=str(folder / "prompts.safetensors"))
    made.set_classes(["bolt", "nut"], torch.Generator())
    return made.eval()


def prompts(folder):
    from safetensors.torch import load_file

    return load_file(folder / "prompts.safetensors")


@torch.no_grad()
def test_guided_noise_is_that_of_the_plain_network(model, folder):
    latent = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    time, label = torch.tensor([1, 400, 901]), torch.tensor([0, 1, 0])
    stored, plain = prompts(folder), tiny_unet().eval()
    told = torch.stack([stored["prompt"], stored["prompt.nut"], stored["prompt"]])
    empty = stored["negative"].expand(3, -1, -1)
    with_prompt = plain(latent, time, encoder_hidden_states=told).sample
    without = plain(latent, time, encoder_hidden_states=empty).sample
    expected = without + 9 * (with_prompt - without)
    for _ in range(2):  # the second time keys and values are the kept ones
        assert torch.allclose(model.noise(latent, time, label), expected, atol=1e-4)
    model.guidance, model.guided = 1.0, False
    assert torch.allclose(model.noise(latent, time, label), with_prompt, atol=1e-5)


@torch.no_grad()
def test_kept_keys_follow_the_weights_and_the_prompts(model):
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    time, label = torch.tensor([300]), torch.tensor([0])
    first = model.noise(latent, time, label)
    model.set_prompts(model.prompts + 1)
    second = model.noise(latent, time, label)
    assert not torch.allclose(first, second, atol=1e-4)
    for name, weight in model.network.named_parameters():
        if "attn2.to_v" in name:
            weight.mul_(2)
    assert not torch.allclose(second, model.noise(latent, time, label), atol=1e-4)


@torch.no_grad()
def test_latents_are_the_posterior_mean_scaled(model):
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    vae = tiny_vae().eval()
    latent = vae.encode(image * 2 - 1).latent_dist.mean * 0.18215
    assert torch.allclose(model.encode(image), latent, atol=1e-5)
    made = (vae.decode(latent / 0.18215).sample + 1) / 2
    assert torch.allclose(model.decode(latent), made, atol=1e-5)
    assert (model.factor, model.size_multiple) == (2, 4)


def test_our_step_is_that_of_the_library_where_it_is_defined(model):
    library = scheduler()
    library.set_timesteps(25)
    ddim = Ddim(model.schedule, 1000, 25)
    assert ddim.times == library.timesteps.tolist()
    generator = torch.Generator().manual_seed(5)
    latent, noise = torch.randn(2, 25, 4, 2, 2, generator=generator)
    ours = ddim.after(
        ddim.clean(latent, torch.tensor(ddim.times), noise), torch.tensor(ddim.times), noise
    )
    for row, time in enumerate(ddim.times):  # every image at a level of its own, in one call
        expected = library.step(noise[row], time, latent[row]).prev_sample
        assert torch.allclose(ours[row], expected, atol=1e-5)


def test_a_rebuilt_model_needs_no_file(model, tmp_path):
    again = built_diffusion(model.config)
    again.load_state_dict(model.state_dict())
    latent = torch.zeros(1, 4, 8, 8)
    time, label = torch.tensor([7]), torch.tensor([1])
    with torch.no_grad():
        assert torch.equal(again.noise(latent, time, label), model.noise(latent, time, label))


@pytest.mark.parametrize(
    "file",
    [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
    ],
)
def test_an_incomplete_folder_is_refused_file_by_file(folder, tmp_path, file):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / file).unlink()
    with pytest.raises(UserError, match=f"missing {file}") as raised:
        StableDiffusion(path=str(copy), embeddings=str(copy / "prompts.safetensors"))
    assert "\n" not in str(raised.value)


def test_everything_that_is_missing_is_named_at_once(tmp_path):
    with pytest.raises(UserError) as raised:
        StableDiffusion(path=str(tmp_path))
    for name in ("unet/config.json", "vae/", "scheduler/", "text_encoder/", "tokenizer/merges.txt"):
        assert name in str(raised.value)
    with pytest.raises(UserError, match="no such folder"):
        StableDiffusion(path=str(tmp_path / "none"))


def test_prompts_without_a_text_encoder(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for name in ("config.json", "model.safetensors"):
        (folder / "text_encoder").mkdir(exist_ok=True)
        (folder / "text_encoder" / name).touch()
    (folder / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / "tokenizer" / name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"diffusion\.embeddings=FILE"):
        StableDiffusion(path=str(folder))


def test_weights_of_another_model_are_refused(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps({**config, "cross_attention_dim": 24}))
    with pytest.raises(UserError, match="does not belong to"):
        StableDiffusion(path=str(copy), embeddings=str(copy / "prompts.safetensors"))


def test_embeddings_of_another_width_are_refused(folder, tmp_path):
    file = tmp_path / "wrong.safetensors"
    save_file({"negative": torch.zeros(5, 8), "prompt": torch.zeros(5, 8)}, file)
    made = StableDiffusion(path=str(folder), embeddings=str(file))
    with pytest.raises(UserError, match="width 16"):
        made.set_classes(["nut"], torch.Generator())


def test_a_broken_configuration_is_one_line(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "vae/config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON") as raised:
        StableDiffusion(path=str(copy), embeddings=str(copy / "prompts.safetensors"))
    assert "\n" not in str(raised.value)


def test_prompts_through_the_text_encoder(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    words = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"]
    (copy / "tokenizer").mkdir()
    vocabulary = {word: number for number, word in enumerate(words)}
    (copy / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (copy / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        str(copy / "tokenizer/vocab.json"),
        str(copy / "tokenizer/merges.txt"),
        model_max_length=TOKENS,
    ).save_pretrained(copy / "tokenizer")
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
    )
    transformers.CLIPTextModel(config).save_pretrained(copy / "text_encoder")
    made = StableDiffusion(path=str(copy), prompt="a {category}")
    made.set_classes(["nut", "bolt"], torch.Generator())
    assert made.prompts.shape == (3, TOKENS, WIDTH)
    assert not torch.equal(made.prompts[1], made.prompts[2])
