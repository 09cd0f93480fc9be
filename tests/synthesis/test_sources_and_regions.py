"""What each synthesizer does that the others do not."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from adbench.errors import UserError
from adbench.synthesis import draem_augmentations as ten
from adbench.synthesis.augmentations import from_hue, hue_chroma_value, jittered
from adbench.synthesis.blending import composed, nonempty_masks
from adbench.synthesis.cutpaste import CutPaste, CutPasteScar, Pieces, pasted, placed_centres
from adbench.synthesis.draem import Draem
from adbench.synthesis.memseg import MemSeg, shuffled_cells
from adbench.synthesis.mixture import Mixture, built
from adbench.synthesis.nsa import CATEGORIES, Nsa, PatchKeys, _cloned, changed_pixels
from adbench.synthesis.pool import Pool
from adbench.synthesis.sdas import SdasPool

CONF = Path(__file__).parents[2] / "conf" / "synthesis"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Composition


@pytest.mark.shared
@pytest.mark.parametrize("opacity", ["0.5", "0.7", "1.0"])
def test_composition_judge(shared, opacity):
    with np.load(shared / "judges/methods/realnet/synth.npz") as stored:
        arrays = {k: torch.from_numpy(stored[k]) for k in ("image", "source", "mask")}
        wanted = torch.from_numpy(stored[f"composed_{opacity}"])
    image, source = (arrays[k].permute(2, 0, 1)[None] / 255 for k in ("image", "source"))
    mask = arrays["mask"][None, None] > 0
    found = composed(image, source, mask, torch.tensor([float(opacity)]), truncate=True)
    difference = (found[0].permute(1, 2, 0) * 255).round() - wanted
    exact = torch.lerp(*(arrays[k].double() for k in ("image", "source")), float(opacity))
    whole = (exact - exact.round()).abs() < 1e-6  # there the reference's own rounding decides
    assert not difference[~whole].any()
    assert difference.abs().max() <= 1


def test_full_opacity_gives_the_source_to_the_bit():
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    found = composed(torch.zeros_like(levels), levels, mask, torch.ones(1), truncate=True)
    assert torch.equal(found, levels)


def test_masks_are_drawn_again_until_one_is_left_or_tries_end():
    drawn = []

    def draw(count):
        drawn.append(count)
        mask = torch.zeros(count, 9, 9, dtype=torch.bool)
        mask[:, len(drawn), len(drawn)] = True
        return mask

    foreground = torch.zeros(2, 1, 9, 9, dtype=torch.bool)
    foreground[0, 0, 1, 1] = foreground[1, 0, 3, 3] = True
    found = nonempty_masks(2, draw, foreground, generator())
    assert drawn == [2, 1, 1]
    assert torch.equal(found, foreground[:, 0])
    drawn.clear()
    assert not nonempty_masks(2, draw, torch.zeros_like(foreground), generator(), tries=3).any()
    assert drawn == [2, 2, 2]


def test_opacity_is_uniform_in_its_bounds():
    image = torch.zeros(300, 3, 8, 8)
    made = Draem(opacity=[0.2, 1.0])(image, source=image, generator=generator())
    assert made.strength.min() >= 0.2
    assert abs(made.strength.mean() - 0.6) < 0.05
    with pytest.raises(UserError, match="opacity"):
        Draem(opacity=[0.9, 0.1])


# Augmentations


def pixels(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (24, 20, 3)).astype(np.uint8)


def as_tensor(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("operation", ten.TEN_OPERATIONS, ids=lambda o: o.__name__)
def test_the_ten_stay_in_range_and_follow_the_generator(operation):
    image = torch.rand(5, 3, 24, 20, generator=generator())
    found = operation(image, generator(1))
    assert found.shape == image.shape
    assert -1e-6 <= found.min() <= found.max() <= 1 + 1e-6
    assert torch.equal(found, operation(image, generator(1)))


def test_sharpness_is_that_of_pillow(monkeypatch):
    from PIL import Image, ImageEnhance

    picture = pixels()
    for factor in (0.1, 1.0, 1.9):
        monkeypatch.setattr(ten, "drawn_between", lambda *_, f=factor: f)
        found = ten.sharpened(as_tensor(picture), generator())[0].permute(1, 2, 0) * 255
        theirs = ImageEnhance.Sharpness(Image.fromarray(picture)).enhance(factor)
        assert np.abs(found.numpy() - np.asarray(theirs, dtype=np.float32)).max() <= 1.5


def test_posterise_keeps_high_bits():
    image = as_tensor(pixels()).repeat(64, 1, 1, 1)
    levels = (ten.posterised(image, generator()) * 255).round().long()
    counts = {len(each.unique()) for each in levels}
    assert max(counts) > 128
    assert 2 in counts
    assert ((levels == 0) | (levels <= (image * 255).round())).all()


def test_solarise_inverts_above_the_threshold_only():
    image = torch.linspace(0, 1, 100).view(1, 1, 10, 10).expand(40, 3, 10, 10)
    found = ten.solarised(image, generator())
    changed = (found != image).flatten(1).any(1)
    assert 0.25 < changed.float().mean() < 0.75
    low = image < 32 / 255
    assert torch.equal(found[low], image[low])
    high = image[changed] > 129 / 255
    assert torch.allclose(found[changed][high], 1 - image[changed][high])


def test_hue_and_back():
    image = torch.rand(4, 3, 12, 12, generator=generator())
    assert torch.allclose(from_hue(*hue_chroma_value(image)), image, atol=1e-5)
    hue, chroma, value = hue_chroma_value(image)
    assert torch.allclose(from_hue(hue + 1, chroma, value), image, atol=1e-5)
    third = from_hue(hue + 1 / 3, chroma, value)
    assert torch.allclose(third, image.roll(1, 1), atol=1e-5)  # red to green to blue


def test_no_jitter_changes_nothing():
    image = torch.rand(2, 3, 8, 8, generator=generator())
    assert jittered(image, generator(), 0) is image
    assert (jittered(image, generator(), 0.1) - image).abs().max() < 0.5


# MemSeg


@pytest.mark.parametrize("size", [(32, 32), (30, 37)])
def test_cells_change_places_and_nothing_is_lost(size):
    image = torch.rand(3, 2, *size, generator=generator())
    found = shuffled_cells(image, (4, 8), generator())
    assert found.shape == image.shape
    assert not torch.equal(found, image)
    if size == (32, 32):
        assert torch.equal(found.flatten(2).sort(-1)[0], image.flatten(2).sort(-1)[0])
        cells = image.unfold(2, 8, 8).unfold(3, 4, 4)
        first = found[0, :, :8, :4]
        assert (cells[0] == first[:, None, None]).all(-1).all(-1).all(0).sum() == 1


def test_memseg_draws_textures_and_own_cells_in_proportion():
    image = torch.zeros(200, 3, 16, 16)
    own = MemSeg(texture_share=0.25).drawn_source(image, generator())
    share = own.flatten(1).any(1).float().mean()
    assert 0.15 < share < 0.35
    with pytest.raises(UserError, match="grid"):
        MemSeg(grid=[4])


# CutPaste


def test_a_piece_is_moved_pixel_by_pixel():
    image = torch.rand(1, 3, 20, 24, generator=generator())
    pieces = Pieces(
        side=torch.tensor([[4.0, 7.0]]),
        origin=torch.tensor([[3.5, 5.0]]),  # rows 2..5, columns 2..8
        target=torch.tensor([[12.5, 15.0]]),  # rows 11..14, columns 12..18
        degrees=torch.zeros(1),
    )
    moved, mask = pasted(image, pieces)
    wanted = torch.zeros(20, 24, dtype=torch.bool)
    wanted[11:15, 12:19] = True
    assert torch.equal(mask[0, 0], wanted)
    assert torch.allclose(moved[0, :, 11:15, 12:19], image[0, :, 2:6, 2:9], atol=1e-5)


def test_a_quarter_turn_is_clockwise():
    image = torch.rand(1, 1, 21, 21, generator=generator())
    centre = torch.tensor([[10.0, 10.0]])
    pieces = Pieces(torch.tensor([[9.0, 9.0]]), centre, centre, torch.tensor([90.0]))
    moved, mask = pasted(image, pieces)
    assert mask.sum() == 81
    turned = image[0, 0, 6:15, 6:15].rot90(-1)
    assert torch.allclose(moved[0, 0, 6:15, 6:15], turned, atol=1e-4)


def test_rectangles_keep_to_area_aspect_and_image():
    pieces = CutPaste().pieces(2000, (100, 120), generator())
    area = pieces.side.prod(1) / 12000
    assert 0.018 < area.min() <= area.max() < 0.16
    ratio = pieces.side[:, 0] / pieces.side[:, 1]
    assert 0.25 < ratio.min() <= ratio.max() < 3.8
    assert abs((ratio < 1).float().mean() - 0.5) < 0.05
    for centre in (pieces.origin, pieces.target):
        low, high = centre - (pieces.side - 1) / 2, centre + (pieces.side - 1) / 2
        assert low.min() >= 0
        assert (high <= torch.tensor([99.0, 119.0])).all()
        assert torch.equal(low, low.round())


def test_every_corner_is_possible():
    centres = placed_centres(torch.full((400, 2), 8.0), (10, 9), generator())
    assert {tuple(c.tolist()) for c in centres} == {
        (y, x) for y in (3.5, 4.5, 5.5) for x in (3.5, 4.5)
    }


def test_scars_scale_with_the_image():
    small = CutPasteScar().pieces(500, (128, 128), generator())
    large = CutPasteScar().pieces(500, (512, 640), generator())
    assert small.side[:, 0].max() <= 13
    assert large.side[:, 0].min() >= 20
    assert large.side[:, 1].max() <= 32
    assert small.degrees.abs().max() <= 45


# NSA


def test_a_patch_cloned_onto_its_own_place_changes_nothing():
    picture = cv2.GaussianBlur(pixels(3).repeat(3, 0).repeat(3, 1), (0, 0), 3)
    region = np.zeros((20, 17), dtype=bool)
    region[3:18, 2:15] = True
    found = _cloned(picture, picture[10:30, 12:29].copy(), region, (10, 12), "normal")
    assert np.abs(found.astype(int) - picture).max() <= 1


def test_changed_pixels_ignores_one_level_and_specks():
    before = np.full((20, 20, 3), 100, np.uint8)
    after = before.copy()
    after[:10] += 1
    after[15, 15] += 50
    assert not changed_pixels(before, after).any()
    after[4:12, 4:12] += 9
    assert 50 < changed_pixels(before, after).sum() < 70


def test_nsa_takes_the_published_sizes_of_a_known_category(datamodule, monkeypatch):
    nsa = Nsa(background=[25, 40])
    assert nsa.patch == PatchKeys(background=(25, 40))
    nsa.prepare(datamodule)
    assert nsa.patch == PatchKeys(background=(25, 40))  # no such category in the table
    monkeypatch.setattr("adbench.synthesis.nsa.CATEGORIES", {"disc": CATEGORIES["screw"]})
    nsa.prepare(datamodule)
    assert nsa.patch.height == (0.03, 0.12)
    with pytest.raises(UserError, match="sizes"):
        Nsa(sizes=3)
    assert len(CATEGORIES) == 14  # transistor takes the defaults


# Pool and mixture


def test_pool_takes_the_runs_categories_and_skips_sheets(datamodule, tmp_path):
    for folder, value in (("disc", 200), ("other", 10)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "00000.png"), np.full((64, 64, 3), value, np.uint8))
    cv2.imwrite(str(tmp_path / "contact.png"), np.zeros((64, 64, 3), np.uint8))
    pool = Pool(root=str(tmp_path), opacity=[1, 1])
    image = torch.zeros(4, 3, 64, 64)
    either = pool.drawn_source(image.repeat(10, 1, 1, 1), generator())
    assert (either[:, 0, 0, 0] * 255).round().unique().tolist() == [10, 200]
    pool.prepare(datamodule)
    made = pool(image, generator=generator())
    assert torch.equal(made.image, made.mask.expand_as(image) * torch.tensor(200 / 255))


def test_an_absent_or_empty_pool_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        Pool(root=str(tmp_path / "none"))
    with pytest.raises(UserError, match="holds no image"):
        Pool(root=str(tmp_path))(torch.zeros(1, 3, 8, 8), generator=generator())
    with pytest.raises(UserError, match=r"synthesis\.root"):
        Pool()(torch.zeros(1, 3, 8, 8), generator=generator())


def test_pool_of_a_stage(tmp_path):
    (tmp_path / "pool" / "disc").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "pool" / "disc" / "0.png"), np.full((8, 8, 3), 90, np.uint8))
    pool = Pool()
    pool.stage_folder = tmp_path
    assert (pool.drawn_source(torch.zeros(2, 3, 8, 8), generator()) * 255).round().unique() == 90


def test_a_mixture_keeps_to_its_weights():
    parts = {
        "texture": {"_target_": "adbench.synthesis.draem.Draem", "augmentations": 0},
        "strip": {"_target_": "adbench.synthesis.cutpaste.CutPaste"},
        "normal": {"name": "none"},
    }
    mixture = Mixture(components=parts, weights={"texture": 1, "strip": 1, "normal": 2})
    made = mixture(torch.rand(400, 3, 16, 16, generator=generator()), generator=generator())
    assert abs((~made.applied).float().mean() - 0.5) < 0.08
    opaque = (made.strength == 1).float().mean()
    assert abs(opaque - 0.25) < 0.08
    assert (made.strength[~made.applied] == 0).float().mean() > 0.9
    with pytest.raises(UserError, match="did you mean 'texture'"):
        Mixture(components=parts, weights={"textur": 1})
    with pytest.raises(UserError, match="positive"):
        Mixture(components=parts, weights={"texture": 1, "strip": 1})
    with pytest.raises(UserError, match=r"components\.x"):
        Mixture(components={"x": {"_target_": "adbench.synthesis.draem.Dream"}}, weights={"x": 1})


def test_each_part_of_a_mixture_has_its_own_foreground(datamodule):
    parts = {
        "a": {"_target_": "adbench.synthesis.draem.Draem", "foreground": {"method": "otsu"}},
        "b": {"_target_": "adbench.synthesis.cutpaste.CutPaste"},
    }
    mixture = Mixture(components=parts, weights={"a": 1, "b": 1})
    assert mixture.foreground_masks(torch.arange(2)) is None
    mixture.prepare(datamodule)
    masks = mixture.foreground_masks(torch.arange(8))
    assert masks.shape == (8, 2, 64, 64)
    assert masks[:, 1].all()
    image = datamodule.train_images(torch.arange(8))
    made = mixture(image, foreground=masks, generator=generator())
    texture = made.strength < 1
    assert not (made.mask[texture] & ~masks[texture, :1]).any()
    assert (made.mask[~texture] & ~masks[~texture, :1]).any()


def test_sdas_carries_what_stages_need_and_reads_their_pool(tmp_path):
    from adbench.diffusion.fitting import FitKeys
    from adbench.diffusion.pool import PoolKeys

    section = yaml.safe_load((CONF / "sdas.yaml").read_text())
    sdas = built("sdas", section)
    assert sdas.own_stages
    assert FitKeys(**sdas.fit_keys).size == 256
    assert PoolKeys(**sdas.pool_keys).bounds == (0.1, 0.2)
    assert PoolKeys(**SdasPool(strength=0.5).pool_keys).bounds == (0.5, 0.5)
    assert not SdasPool(root=str(tmp_path)).own_stages
