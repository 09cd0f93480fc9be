"""The file that ships: small, no dearer than its teacher, and what its card says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from adbench.backbones import build_backbone
from adbench.backbones.bundled_network import CHANNELS, STRIDES, BundledNetwork
from adbench.backbones.weights import BUNDLED_FILE, sha256

FOLDER = Path(__import__("adbench.backbones").backbones.__file__).parent
FILE = FOLDER / BUNDLED_FILE
LAYERS = ["layer1", "layer2", "layer3"]


def test_it_is_at_most_16_megabytes():
    assert FILE.stat().st_size <= 16e6


def test_it_reads_strides_4_8_and_16():
    extractor = build_backbone("bundled", LAYERS)
    maps = extractor(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]
    assert all(bool(m.isfinite().all()) for m in maps)


def test_a_forward_pass_costs_no_more_than_resnet18_to_layer3():
    image = torch.rand(1, 3, 64, 64)
    resnet = timm.create_model(
        "resnet18", pretrained=False, features_only=True, out_indices=[1, 2, 3]
    ).eval()
    assert flops(BundledNetwork(), image) <= flops(resnet, image)


def flops(network, image):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()


def test_every_channel_but_a_few_answers_to_pictures():
    from adbench.backbones.distill.generated import generated_picture

    pictures = torch.stack(
        [torch.from_numpy(generated_picture(5, n, 96)).permute(2, 0, 1) for n in range(8)]
    )
    for features in build_backbone("bundled", LAYERS)(pictures.float() / 255):
        assert float((features.std((0, 2, 3)) > 1e-3).float().mean()) > 0.95


def test_the_card_names_this_very_file():
    card = (FOLDER / "bundled.md").read_text(encoding="utf-8")
    assert sha256(FILE) in card


def test_its_metadata_holds_no_paths():
    with safe_open(FILE, "pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    assert "/" not in recipe["teacher"]


def test_the_bundled_weights_are_what_null_means():
    extractor = build_backbone("bundled", ["layer3"])
    assert extractor.record["source"] == "bundled with adbench"
    assert extractor.record["sha256"] == sha256(FILE)


@pytest.mark.shared
@pytest.mark.slow
def test_features_follow_the_teachers_on_photographs(shared):
    """Correlation of standardised layer3 maps, on images no training saw."""
    from adbench.data.images import images_in, read_image

    teacher_file = shared / "weights" / "resnet18.tv_in1k.layer1-3.safetensors"
    teacher = build_backbone("resnet18", ["layer3"], teacher_file)
    student = build_backbone("bundled", ["layer3"])
    paths = images_in(shared / "data" / "mvtec" / "bottle" / "train" / "good")[:4]
    images = [torch.from_numpy(read_image(p)).permute(2, 0, 1)[:, :256, :256] for p in paths]
    batch = torch.stack(images).float() / 255
    ours, theirs = (network(batch)[0].transpose(0, 1).flatten(1) for network in (student, teacher))
    ours, theirs = ((x - x.mean(1, keepdim=True)) for x in (ours, theirs))
    share = (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1) + 1e-9)
    assert float(share.median()) > 0.6
