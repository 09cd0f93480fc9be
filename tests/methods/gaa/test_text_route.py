"""``diffusion=sd15``: tokens through the text encoder of a tiny model in the published layout."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from adbench.errors import UserError
from tests.diffusion.test_latent_stable import scheduler, tiny_unet, tiny_vae
from tests.methods.gaa.test_chain import SHRINK, data, trained  # noqa: F401  (a fixture)

TOKENS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("tiny-text")
    tiny_unet().save_pretrained(root / "unet")
    tiny_vae().save_pretrained(root / "vae")
    scheduler().save_pretrained(root / "scheduler")
    letters = "abcdefghijklmnopqrstuvwxyz*"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (root / "tokenizer").mkdir()
    vocabulary = {word: number for number, word in enumerate(words)}
    (root / "tokenizer/vocab.json").write_text(json.dumps(vocabulary))
    (root / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    files = [str(root / "tokenizer" / name) for name in ("vocab.json", "merges.txt")]
    transformers.CLIPTokenizer(*files, model_max_length=TOKENS).save_pretrained(root / "tokenizer")
    for name, file in zip(("vocab.json", "merges.txt"), files, strict=True):
        if name == "vocab.json":  # the older layout, which published models have
            (root / "tokenizer" / name).write_text(json.dumps(vocabulary))
        else:
            (root / "tokenizer" / name).write_text("#version: 0.2\n")
        assert file
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    transformers.CLIPTextModel(config).save_pretrained(root / "text_encoder")
    return root


def words_of(folder):
    return [
        "model=gaa",
        *SHRINK,
        "diffusion=sd15",
        f"diffusion.path={folder}",
        "diffusion.prompt=a b",
        "dataset.image_size=64",
        "model.concept.feature_tokens=3",
        "model.concept.position_tokens=2",
        "model.concept.steps=2",
        "model.concept.batch_size=4",
        "model.concept.windows=16",
        "model.concept.save_every=2",
        "model.generate.steps=2",
        "model.generate.per_type=2",
        "model.generate.net=32",
        "model.generate.guidance=2.0",
        "until=filter",
    ]


def test_the_chain_runs_through_a_frozen_published_model(folder, data, tmp_path):  # noqa: F811
    run = trained(data, tmp_path, *words_of(folder))
    made = json.loads((run / "stages/generate/made.json").read_text())
    assert made["base"] == "concept decomposition, published base"
    rows = (run / "stages/filter/scored.jsonl").read_text().splitlines()
    assert all(json.loads(row)["out_px"] == 0.0 for row in rows)


def test_tokens_learn_and_the_model_does_not(folder):
    from adbench.diffusion.latent.direct import conditioning_of
    from adbench.diffusion.latent.stable import StableDiffusion

    model = StableDiffusion(path=str(folder), prompt="a b").requires_grad_(False)
    painter = conditioning_of(model, 2, feature_tokens=3, position_tokens=2, width=0)
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 4:20, 4:20] = 1
    context = painter.context(torch.tensor([0, 1]), mask)
    assert context.shape == (2, TOKENS, 16)
    # before the tokens nothing sees them, behind them everything does
    first = painter.at.start
    assert torch.allclose(context[0, :first], context[1, :first], atol=1e-6)
    assert not torch.allclose(context[0, first], context[1, first], atol=1e-4)
    latent = torch.randn(2, 4, 16, 16)
    said = painter.output(latent, torch.tensor([10, 500]), latent, mask, context)
    said.square().mean().backward()
    moved = {name for name, p in painter.named_parameters() if p.grad is not None}
    assert {"bank.blocks.0", "bank.blocks.1"} <= moved
    assert "bank.blocks.2" not in moved
    assert any(name.startswith("encoder.") for name in moved)
    assert all(p.grad is None for p in model.parameters())


def test_new_prompts_are_seen_though_they_lie_where_the_last_ones_lay(folder):
    from adbench.diffusion.latent.direct import conditioning_of
    from adbench.diffusion.latent.stable import StableDiffusion

    model = StableDiffusion(path=str(folder), prompt="a b").requires_grad_(False)
    painter = conditioning_of(model, 2, feature_tokens=3, position_tokens=2, width=0)
    latent, time, found = torch.randn(1, 4, 16, 16), torch.tensor([500]), []
    with torch.no_grad():
        for scale in (1.0, 5.0, -3.0):
            context = torch.full((1, TOKENS, 16), scale)
            found.append(painter.output(latent, time, latent, latent, context))
            del context
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_base_without_its_text_encoder_is_one_line(folder, data, tmp_path):  # noqa: F811
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("text_encoder"))
    with pytest.raises(UserError, match="text_encoder") as caught:
        trained(data, tmp_path, *words_of(bare))
    assert "\n" not in str(caught.value)
