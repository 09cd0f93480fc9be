"""Features made once and drawn from, columns in units of their own deviation."""

import pytest
import torch

from adbench.backbones.maps import smooth_upsample
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.glass.bank import trust_in
from adbench.methods.glass.detector import GlassDetector
from adbench.methods.glass.pool import (
    KEPT,
    FeaturePool,
    as_features,
    column_spread,
    local_rows,
    normal_rows,
)
from tests.methods.glass.test_module import built, trained


def seeded():
    return torch.Generator().manual_seed(0)


def features(images, positions=12, columns=3, grid=(3, 4)):
    rows = torch.randn(images * positions, columns, generator=seeded())
    found = as_features(rows)
    return type(found)([rows.view(images, *grid, columns)], found.columns, grid, columns)


def test_spread_is_the_deviation_over_all_batches_and_one_where_nothing_varies():
    rows = torch.randn(50, 3, generator=seeded()) * torch.tensor([1.0, 20.0, 0.0]) + 1000
    found = column_spread(as_features(part) for part in rows.split(20))
    torch.testing.assert_close(found[:2], rows.std(0, correction=0)[:2], rtol=1e-4, atol=0)
    assert found[2] == 1


def test_drawn_rows_are_normal_ones_and_local_ones_by_their_mask():
    pool = FeaturePool(images=4, copies=1, max_memory=1 << 20)
    normal = features(4)
    pool.fill_normals([normal_rows(normal)])
    mask = (torch.arange(48) % 5 == 0).float()
    pool.fill_locals([local_rows(normal, mask, seeded())])
    drawn, local, target = pool.draw(64, seeded(), torch.device("cpu"))
    known = normal.rows().half().float()
    assert target.sum() == 32
    nearest = torch.cdist(torch.cat([drawn.rows(), local.rows()]), known).min(1)
    assert nearest.values.max() == 0
    assert torch.equal(mask[nearest.indices[64:]], target)
    assert len(nearest.indices[:64].unique()) > 30
    assert torch.equal(pool.images(torch.tensor([2]), "cpu").rows(), known[24:36])


def test_a_pool_without_local_anomalies_draws_none():
    pool = FeaturePool(images=2, copies=3, max_memory=1 << 20)
    pool.fill_normals([normal_rows(features(1)), normal_rows(features(1))])
    assert pool.draw(8, seeded(), torch.device("cpu"))[1:] == (None, None)
    bytes_kept = 2 * 2 * 12 * 3
    assert pool.normals.nbytes == bytes_kept
    assert FeaturePool.nbytes(2, 3, 12, 3, 1 << 20) == bytes_kept + 2 * 6 * 2 * KEPT * 3


def test_units_of_the_columns_make_training_blind_to_their_scale(extractor, squares, normals):
    """The adaptor of a preset for two cores is left out; with one, its decay would see scale."""
    scores = []
    for factor in (1.0, 50.0):
        module = built(extractor, squares, unit="column", adaptor=False, rows=64)
        unscaled = module.detector.maps
        module.detector.maps = lambda image, f=factor, m=unscaled: [f * found for found in m(image)]
        trained(module, normals, steps=4)
        scores.append(module.detector(normals.images).score)
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_a_folded_detector_reads_features_as_they_are(extractor, squares, normals):
    module = built(extractor, squares, unit="column", rows=64, aggregation="paper")
    trained(module, normals)
    with torch.no_grad():
        rows = module.features(normals.images).rows()
        wanted = module.head.discriminator(module.head.adapted(rows)).view(5, 1, 8, 8)
        found = module.detector.logits(module.detector.maps(normals.images))
    assert rows.std(0).median() == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_drawn_steps_see_no_image_and_bring_the_loss_down(extractor, squares, normals):
    keys = {"unit": "column", "gas": {"sigma": 0.5}, "adaptor": False, "las_copies": 3}
    module = built(extractor, squares, rows=128, optimiser={"discriminator_lr": 1e-2}, **keys)
    module.prepare(normals)
    module._raw = None  # nothing calls the backbone in a step
    parts = [module.training_step(normals.batch([0]), step) for step in range(40)]
    assert float(parts[-1]["loss"]) < 0.7 * float(parts[0]["loss"])
    assert len(module._pool.locals) == 3 * len(normals.images)


def test_what_drawing_cannot_do_is_refused(extractor, squares):
    with pytest.raises(UserError, match=r"model\.hypothesis=auto"):
        built(extractor, squares, rows=64, hypothesis="auto")
    with pytest.raises(UserError, match="as_published=false"):
        built(extractor, squares, rows=64, gas={"as_published": True})
    with pytest.raises(UserError, match=r"model\.unit=column"):
        built(extractor, squares, unit="column", weights="file.pth")


def test_a_bank_beside_the_discriminator_adds_distances_on_one_scale(
    extractor, squares, normals, tmp_path
):
    keys = {"unit": "column", "adaptor": False, "aggregation": "paper", "score": "map"}
    module = built(extractor, squares, rows=64, bank={"size": 40, "share": 0.5}, **keys)
    trained(module, normals, steps=2)
    detector, bank = module.detector.eval(), module.detector.bank
    rows = module._normal_rows(torch.arange(5)).flatten(0, 1)
    white = bank.whitened(rows)
    assert white.mean(0).abs().max() < 1e-2
    assert white.var(0).max() < 1.01  # below one where the floor counts
    wanted = torch.cdist(white, bank.bank.exact).amin(1)
    found = detector(normals.images)
    grid = detector._grid(detector.maps(normals.images)).flatten()
    logits = detector.row_logits(rows)
    low, span, own_low, own_span = bank.scales.tolist()
    joined = (wanted - low) / span + 0.5 * (logits - own_low) / own_span
    torch.testing.assert_close(grid, joined, rtol=1e-2, atol=1e-2)
    save_detector(detector, tmp_path)
    again = load_detector(tmp_path)(normals.images)
    assert torch.equal(again.score, found.score)
    alone = detector(normals.images[1:2])
    torch.testing.assert_close(alone.score, found.score[1:2], rtol=1e-4, atol=1e-4)


def test_a_bank_without_drawn_features_is_refused(extractor, squares):
    with pytest.raises(UserError, match=r"model\.rows=2048"):
        built(extractor, squares, bank={"size": 10})


@pytest.mark.parametrize(("prior", "left"), [(0.0, 1.0), (5.0, 0.25), (15.0, 0.0625)])
def test_few_normal_images_leave_the_discriminator_a_small_share(
    prior, left, extractor, squares, normals
):
    """Five images: (5 / (5 + prior)) squared of the share."""
    spans = []
    for each in (0.0, prior):
        bank = {"size": 40, "share": 0.5, "prior": each}
        module = built(extractor, squares, rows=64, bank=bank)
        trained(module, normals, steps=2)
        spans.append(float(module.detector.bank.scales[3]))
    assert spans[0] / spans[1] == pytest.approx(left, rel=1e-5)
    assert trust_in(25, 25.0) == 0.25


def test_a_smaller_picture_is_searched_too(extractor, squares, normals, tmp_path):
    """Its distances, scaled and brought to the working size, are added to the map."""
    keys = {"unit": "column", "adaptor": False, "aggregation": "paper", "score": "map"}
    bank = {"size": 40, "share": 0.5, "coarse": 0.5}
    module = built(extractor, squares, rows=64, bank=bank, **keys)
    trained(module, normals, steps=2)
    detector = module.detector.eval()
    assert detector.config["coarse"] == {"image_size": [32, 32], "bank": len(detector.coarse.bank)}
    whole = detector(normals.images)
    small = detector.coarse_picture(normals.images)
    assert small.shape[-2:] == (32, 32)
    features = detector.aggregate(detector.maps(small))
    kept = detector.coarse.bank.exact
    distance = torch.cdist(detector.coarse.whitened(features.rows()), kept).amin(1)
    low, span = detector.coarse.scales[:2].tolist()
    grid = ((distance - low) / span).view(-1, 1, *features.grid)
    added = smooth_upsample(grid, detector.image_size, 2 * detector.sigma)
    coarse, detector.coarse = detector.coarse, None
    alone = detector(normals.images)
    torch.testing.assert_close(whole.anomaly_map, alone.anomaly_map + added, rtol=1e-3, atol=1e-3)
    assert torch.equal(whole.score, whole.anomaly_map.amax((1, 2, 3)))
    detector.coarse = coarse
    save_detector(detector, tmp_path)
    assert torch.equal(load_detector(tmp_path)(normals.images).score, whole.score)


def test_a_smaller_picture_needs_the_score_of_the_map(extractor, squares):
    with pytest.raises(UserError, match=r"model\.score=map"):
        built(extractor, squares, rows=64, bank={"size": 10, "coarse": 0.5}, score="grid")


@pytest.mark.parametrize("sizes", [(10**10, 10), (10, 10**10)])
def test_banks_that_no_memory_holds_are_refused_whichever_they_are(extractor, sizes):
    coarse = {"image_size": [32, 32], "bank": sizes[1]}
    with pytest.raises(UserError, match="the features kept"):
        GlassDetector(extractor.config, (64, 64), bank=sizes[0], coarse=coarse, extractor=extractor)
