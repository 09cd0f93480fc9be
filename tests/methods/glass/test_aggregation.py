"""Local averaging: the release's numbers, and linear facts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adbench.methods.aggregation import Aggregation, upsample, upsample_transposed


def by_unfolding(maps, patch, embed):
    """The rule of the release, written out."""
    padding = (patch - 1) // 2
    levels, grid = [], None
    for found in maps:
        batch, channels, height, width = found.shape
        side = height + 2 * padding - patch + 1, width + 2 * padding - patch + 1
        grid = grid or side
        flat = F.unfold(found, patch, padding=padding).reshape(batch, channels * patch**2, *side)
        if side != grid:
            flat = F.interpolate(flat, size=grid, mode="bilinear", align_corners=False)
        rows = flat.permute(0, 2, 3, 1).reshape(-1, 1, channels * patch**2)
        levels.append(F.adaptive_avg_pool1d(rows, embed))
    return F.adaptive_avg_pool1d(torch.cat(levels, 2), embed)[:, 0]


@pytest.mark.shared
@pytest.mark.parametrize("layout", ["main", "small", "p5", "three", "odd", "single"])
def test_equals_the_release(shared, layout):
    judge = np.load(shared / "judges/methods/glass/aggregation.npz")
    maps = [
        torch.from_numpy(judge[f"{layout}_map{i}"])
        for i in range(3)
        if f"{layout}_map{i}" in judge.files
    ]
    patch, embed = int(judge[f"{layout}_patchsize"]), int(judge[f"{layout}_embed"])
    ours = Aggregation([m.shape[1] for m in maps], patch, embed)(maps).rows()
    np.testing.assert_allclose(ours.numpy(), judge[f"{layout}_out"], atol=1e-5)


@pytest.mark.shared
def test_equals_the_release_at_full_width(shared):
    judge = np.load(shared / "judges/methods/glass/aggregation_wrn50.npz")
    aggregation = Aggregation([512, 1024])
    ours = aggregation([torch.from_numpy(judge["map0"]), torch.from_numpy(judge["map1"])]).rows()
    np.testing.assert_allclose(ours.numpy(), judge["out"], atol=1e-5)
    assert aggregation.groups == [256, 256]
    assert [tuple(aggregation.get_buffer(f"kernel{i}").shape[:2]) for i in (0, 1)] == [
        (768, 2),
        (768, 4),
    ]


@pytest.mark.parametrize(
    ("channels", "patch", "embed"),
    [((8, 16), 3, 24), ((8, 16), 4, 24), ((6, 10), 3, 30), ((4, 8, 16), 3, 20), ((5,), 5, 7)],
)
def test_grouped_form_equals_unfolding_and_pooling(channels, patch, embed):
    torch.manual_seed(0)
    maps = [torch.randn(2, c, 8 >> i, 8 >> i).double() for i, c in enumerate(channels)]
    ours = Aggregation(channels, patch, embed).double()(maps).rows()
    assert torch.allclose(ours, by_unfolding(maps, patch, embed), atol=1e-6)


def test_paper_form_is_the_mean_of_each_channel():
    maps = [torch.randn(2, 4, 6, 6), torch.randn(2, 8, 3, 3)]
    found = Aggregation([4, 8], 3, 99, "paper")(maps)
    fine = F.avg_pool2d(maps[0], 3, 1, 1)
    coarse = F.interpolate(F.avg_pool2d(maps[1], 3, 1, 1), size=(6, 6), mode="bilinear")
    wanted = torch.cat([fine, coarse], 1).permute(0, 2, 3, 1).reshape(-1, 12)
    assert torch.allclose(found.rows(), wanted, atol=1e-6)


def test_a_constant_interior_keeps_its_value():
    maps = [torch.full((1, 8, 8, 8), 2.0), torch.full((1, 16, 4, 4), 2.0)]
    inner = Aggregation([8, 16], 3, 24)(maps).rows().view(8, 8, 24)[3:5, 3:5]
    assert torch.allclose(inner, torch.tensor(2.0))


def test_matrices_commute_with_the_resize(small):
    _, features, _ = small()
    weight = torch.randn(5, 24).double()
    assert torch.allclose(features.project(weight), features.rows() @ weight.mT)


def test_weight_gradient_is_the_adjoint_of_project(small):
    _, features, _ = small()
    delta = torch.randn(72, 5).double()
    assert torch.allclose(features.weight_gradient(delta), delta.mT @ features.rows())


def test_transposed_resize_is_the_adjoint():
    coarse = torch.randn(2, 3, 3, 4, requires_grad=True)
    fine = torch.randn(2, 7, 6, 4)
    (upsample(coarse, (7, 6)) * fine).sum().backward()
    assert torch.allclose(upsample_transposed(fine, (3, 3)), coarse.grad, atol=1e-6)
