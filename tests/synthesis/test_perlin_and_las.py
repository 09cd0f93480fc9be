"""Perlin noise, masks and LAS against the stored references and their own properties."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from adbench.errors import UserError
from adbench.synthesis.augmentations import OPERATIONS, augmented, equalised
from adbench.synthesis.draem import Draem
from adbench.synthesis.foreground import otsu_foreground, separation
from adbench.synthesis.las import Las, blended, combined
from adbench.synthesis.memseg import MemSeg
from adbench.synthesis.perlin import perlin_masks, perlin_noise, rotated
from adbench.synthesis.settings import TexturesKeys
from adbench.synthesis.textures import ProceduralTextures, is_grey, texture_source


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def judge(shared, name):
    with np.load(shared / "judges/methods/glass" / name, allow_pickle=False) as stored:
        return {key: torch.from_numpy(value) for key, value in stored.items()}


@pytest.mark.shared
def test_noise_judge(shared):
    stored = judge(shared, "perlin_noise.npz")
    for i in range(4):
        uniform = stored[f"uniform{i}"]
        size = tuple(int(v) for v in stored[f"shape{i}"])
        points = max(uniform.shape)
        angle = torch.zeros(1, points, points)
        angle[0, : uniform.shape[0], : uniform.shape[1]] = 2 * math.pi * uniform
        found = perlin_noise(angle, stored[f"res{i}"][None], size)
        assert torch.allclose(found[0], stored[f"noise{i}"], atol=1e-5)
    for i in range(2):
        found = rotated(stored["rot_in"][None], stored[f"rot_angle{i}"][None])
        assert torch.allclose(
            found[0], stored[f"rot_out{i}"], atol=1e-2
        )  # OpenCV rounds to 1/32 px


@pytest.mark.shared
def test_mask_judge(shared):
    stored = judge(shared, "perlin_mask.npz")
    for k in range(3):
        mask = combined(
            stored[f"m1_{k}"][None] > 0, stored[f"m2_{k}"][None] > 0, stored[f"u_{k}"][None]
        )
        mask &= stored[f"foreground_{k}"][None] > 0
        assert torch.equal(mask[0].float(), stored[f"mask_full_{k}"])
        small = functional.max_pool2d(mask[:, None].float(), 8)
        assert torch.equal(small[0, 0], stored[f"mask_small_{k}"])


@pytest.mark.shared
def test_las_judge(shared):
    stored = judge(shared, "las.npz")
    for j in range(3):
        mask = stored[f"mask_full{j}"][None, None] > 0
        beta = stored[f"beta_drawn{j}"][None].clamp(0.2, 0.8)
        found = blended(stored[f"image{j}"][None], stored[f"texture{j}"][None], mask, beta)
        assert torch.allclose(found[0], stored[f"out{j}"], atol=1e-6)


def test_noise_vanishes_on_the_lattice_and_stays_in_range():
    angle = 2 * math.pi * torch.rand(3, 9, 9, generator=generator())
    noise = perlin_noise(angle, torch.tensor([[8.0, 4.0]] * 3), (64, 64))
    assert noise[:, ::8, ::16].abs().max() < 1e-6
    assert noise.abs().max() <= 1


def test_share_of_masks_without_foreground():
    masks = perlin_masks(400, (64, 64), generator())
    both = combined(masks[:200], masks[200:], torch.rand(200, generator=generator(1)))
    assert 0.03 < both.float().mean() < 0.09  # 5.6 % measured on the authors' code


def test_equal_generators_give_equal_results_and_nothing_changes_outside():
    las = Las(foreground={"method": "none"})
    image = torch.rand(4, 3, 64, 64, generator=generator(3))
    first, second = las(image, generator=generator()), las(image, generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = las(image, generator=generator(9))
    assert not torch.equal(first.mask, other.mask)
    kept = ~first.mask.expand_as(image)
    assert torch.equal(first.image[kept], image[kept])
    assert first.applied.all()
    assert 0 <= first.image.min() <= first.image.max() <= 1


def test_masks_lie_in_the_foreground_and_never_vanish_on_the_grid():
    foreground = torch.zeros(16, 1, 64, 64, dtype=torch.bool)
    foreground[..., 20:44, 20:44] = True
    made = Las()(torch.rand(16, 3, 64, 64), foreground=foreground, generator=generator())
    assert not (made.mask & ~foreground).any()
    assert functional.max_pool2d(made.mask.float(), 8).flatten(1).any(1).all()


def test_a_constant_transparency_and_a_given_source():
    las = Las(beta_std=0.0, foreground={"method": "none"})
    image, source = torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    made = las(image, source=source, generator=generator())
    assert torch.equal(made.strength, torch.full((2,), 0.5))
    assert torch.equal(made.image, 0.5 * made.mask.expand_as(image))


def test_probability_leaves_images_normal():
    made = Las(probability=0.5)(torch.rand(64, 3, 32, 32), generator=generator())
    share = made.applied.float().mean()
    assert 0.3 < share < 0.7
    assert torch.equal(made.applied, made.mask.flatten(1).any(1))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.__name__)
def test_augmentations_stay_in_range_and_follow_the_generator(operation):
    image = torch.rand(3, 3, 24, 24, generator=generator())
    found = operation(image, generator(1))
    assert found.shape == image.shape
    assert -1e-6 <= found.min() <= found.max() <= 1 + 1e-6
    assert torch.equal(found, operation(image, generator(1)))


def test_equalise_is_that_of_pillow():
    from PIL import Image, ImageOps

    pixels = np.random.default_rng(0).integers(30, 120, (32, 32, 3)).astype(np.uint8)
    ours = equalised(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255, generator())
    theirs = np.asarray(ImageOps.equalize(Image.fromarray(pixels)))
    found = (ours[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(found - theirs).max() <= 1


def test_an_image_is_augmented_as_if_it_were_alone_in_kind():
    image = torch.rand(5, 3, 16, 16, generator=generator())
    assert torch.equal(augmented(image, generator(), 0), image)
    assert not torch.equal(augmented(image, generator(), 3), image)


def test_textures_differ_and_have_contrast():
    drawn = ProceduralTextures().draw(8, (48, 40), generator())
    assert drawn.shape == (8, 3, 48, 40)
    assert drawn.std((2, 3)).mean() > 0.05
    assert (drawn[0] - drawn[1]).abs().mean() > 0.05


def test_a_texture_folder_is_read_and_a_missing_one_named(tmp_path):
    import cv2

    folder = tmp_path / "images" / "dotted"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.jpg"), np.full((30, 50, 3), 200, np.uint8))
    drawn = texture_source(TexturesKeys("folder", str(tmp_path))).draw(2, (16, 16), generator())
    assert drawn.mean() == pytest.approx(200 / 255, abs=0.01)
    with pytest.raises(UserError, match="procedural"):
        texture_source(TexturesKeys("folder", str(tmp_path / "none")))
    with pytest.raises(UserError, match="did you mean 'procedural'"):
        Las(textures={"source": "procedurall"})


def test_foreground_of_a_disc_and_of_a_texture():
    y, x = np.mgrid[:80, :80]
    disc = (y - 40) ** 2 + (x - 40) ** 2 < 25**2
    image = np.where(disc[..., None], 60, 230).astype(np.uint8).repeat(3, -1)
    found = otsu_foreground(image)
    assert (found & disc).sum() / (found | disc).sum() > 0.9
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3)).astype(np.uint8)
    brushed = noise[:1].repeat(80, 0)
    for texture in (np.full((80, 80, 3), 90, np.uint8), noise, brushed):
        assert otsu_foreground(texture).all()


def test_otsus_sides_of_known_distributions():
    uniform, normal = np.arange(256, dtype=np.uint8), np.random.default_rng(0).normal(size=10**6)
    bell = (128 + 20 * normal).round().astype(np.uint8)
    assert separation(uniform, uniform >= 128) == pytest.approx(0.75, abs=1e-4)
    assert separation(bell, bell >= 128) == pytest.approx(2 / np.pi, abs=2e-3)
    assert separation(np.array([3, 9], np.uint8), np.array([False, True])) == pytest.approx(1)


@pytest.mark.parametrize("synthesizer", [Las, Draem, MemSeg])
def test_textures_are_grey_where_all_training_images_are(synthesizer, datamodule, monkeypatch):
    image = datamodule.train_images(torch.arange(8))
    made = synthesizer(textures={"colour": "auto"})
    made.prepare(datamodule)
    assert not is_grey(made(image, generator=generator()).image)
    flat = image[:, :1].expand_as(image).contiguous()
    batch = next(datamodule.train_batches())
    monkeypatch.setattr(datamodule, "train_batches", lambda: iter([replace(batch, image=flat)]))
    made.textures.prepare(datamodule)
    assert is_grey(made(flat, generator=generator()).image)
    kept = synthesizer()
    kept.textures.prepare(datamodule)
    assert not is_grey(kept(flat, generator=generator()).image)


def test_an_unknown_op_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'union'"):
        Las(ops=["unoin"])
