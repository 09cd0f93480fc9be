"""Facts about token distances, full-size maps, scores and noise."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from adbench.methods.glad.maps import smoothed, top_mean
from adbench.methods.glad.noise import content_key, drawn_noise
from adbench.methods.glad.tokens import distance_map, nearest_distances, summed_maps


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [16, 5, 1])
def test_distances_are_those_of_a_double_loop(chunk):
    first, second = drawn(2, 7, 3), drawn(2, 11, 3, seed=1)
    found = nearest_distances(first, second, chunk)
    for b in range(2):
        table = torch.stack(
            [torch.stack([F.cosine_similarity(p, q, dim=0) for q in second[b]]) for p in first[b]]
        )
        assert torch.allclose(found.forward[b], 1 - table.amax(1), atol=1e-6)
        assert torch.allclose(found.backward[b], 1 - table.amax(0), atol=1e-6)


def test_the_way_back_is_the_way_with_roles_exchanged():
    first, second = drawn(1, 6, 4), drawn(1, 9, 4, seed=1)
    there, back = nearest_distances(first, second), nearest_distances(second, first)
    assert torch.allclose(there.backward, back.forward, atol=1e-6)


def test_equal_images_are_at_no_distance_wherever_the_tokens_lie():
    maps = drawn(2, 5, 3, 4)
    assert distance_map(maps, maps).abs().max() < 1e-6
    shuffled = maps.flatten(2)[..., torch.randperm(12)].view_as(maps)
    assert distance_map(maps, shuffled).abs().max() < 1e-6  # nearest anywhere
    other = drawn(2, 5, 3, 4, seed=1)
    moved = other.flatten(2)[..., torch.randperm(12)].view_as(other)
    assert torch.allclose(distance_map(maps, other), distance_map(maps, moved), atol=1e-6)


def test_directions_add_and_average():
    first, second = drawn(1, 5, 3, 3), drawn(1, 5, 3, 3, seed=1)
    forward = distance_map(first, second)
    both = distance_map(first, second, "sum")
    assert torch.allclose(distance_map(first, second, "mean"), both / 2)
    assert (both >= forward).all()


def test_layers_of_one_size_are_summed():
    a, b = drawn(1, 5, 3, 3), drawn(1, 5, 6, 6)
    found = summed_maps([a, b, a], [-a, b.flip(1), -a], "forward", 8)
    assert [tuple(x.shape[-2:]) for x in found] == [(3, 3), (6, 6)]
    assert torch.allclose(found[0], 2 * distance_map(a, -a))


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_one_product_per_axis_is_upsampling_and_blur(sigma):
    maps = drawn(2, 1, 5, 4).double()
    size = (20, 24)
    plain = F.interpolate(maps, size, mode="bilinear", align_corners=True)
    if sigma:
        radius = int(4 * sigma + 0.5)
        offset = torch.arange(-radius, radius + 1).double()
        kernel = torch.exp(-0.5 * (offset / sigma) ** 2)
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        plain = F.pad(plain, (radius,) * 4, mode="reflect")
        plain = F.conv2d(F.conv2d(plain, kernel), kernel.mT)
    assert torch.allclose(smoothed(maps, size, sigma), plain, atol=1e-12)


def test_a_blur_wider_than_the_map_is_defined():
    maps = torch.ones(1, 1, 4, 4)
    assert torch.allclose(smoothed(maps, (8, 8), 20.0), torch.ones(1, 1, 8, 8), atol=1e-5)


def test_the_score_is_the_mean_of_the_largest():
    maps = drawn(3, 1, 5, 5)
    expected = maps.flatten(1).sort(descending=True).values[:, :4].mean(1)
    assert torch.allclose(top_mean(maps, 4), expected)
    assert torch.allclose(top_mean(maps, 1000), maps.mean((1, 2, 3)))


def test_noise_belongs_to_the_image():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    together = drawn_noise(images, (4, 2, 2), 7, "image")
    for row in range(3):
        assert torch.equal(
            drawn_noise(images[row : row + 1], (4, 2, 2), 7, "image")[0], together[row]
        )
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, drawn_noise(images, (4, 2, 2), 8, "image"))
    assert content_key(images[0]) == content_key(images[0] + 1e-6)
    shared = drawn_noise(images, (4, 2, 2), 7, "shared")
    assert torch.equal(shared[0], shared[2])


def test_positions_are_resized_once_and_then_left_alone():
    from adbench.backbones.extractor import FeatureExtractor
    from adbench.methods.glad.dino import fit_positions, resized_positions

    torch.manual_seed(0)
    backbone = FeatureExtractor("vit_tiny_patch16_224.augreg_in21k", ["blocks.0"])
    network = backbone.network.model
    torch.nn.init.normal_(network.pos_embed)
    wanted = resized_positions(network.pos_embed.data, (4, 4))
    fit_positions(network, (64, 64))
    assert torch.equal(network.pos_embed, wanted)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = backbone(image)[0]
    tokens = network.patch_embed((image - backbone.mean) / backbone.std)
    tokens = tokens.flatten(1, 2) if tokens.dim() == 4 else tokens
    whole = torch.cat((network.cls_token, tokens), 1) + wanted
    assert torch.allclose(network.blocks[0](whole)[:, 1:].mT.unflatten(2, (4, 4)), found, atol=1e-5)
    fit_positions(network, (64, 64))
    assert torch.equal(network.pos_embed, wanted)
