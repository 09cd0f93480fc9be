"""Facts about the trained whole: batches, caches, calibration, categories, bad input."""

from __future__ import annotations

import pytest
import torch

from adbench.config.compose import compose_config
from adbench.config.schema import settings
from adbench.data.datamodule import DataModule, Splits
from adbench.errors import UserError
from adbench.methods.base import load_detector, save_detector
from adbench.methods.glad.calibration import calibrated, differences, held_out_images
from adbench.methods.glad.settings import GladKeys
from adbench.runs.stages import run_stages
from tests.methods.glad.conftest import SIZE, diffusion, glad, pictures, prepared


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, *SIZE, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("search", ["sequential", "last_first", "bisect"])
@torch.no_grad()
def test_nothing_depends_on_the_batch(backbone, datamodule, tmp_path, images, search):
    module = prepared(glad(backbone, ads={"search": search}), datamodule, tmp_path)
    detector = module.detector
    walk = differences(detector, images).score
    largest = walk.amax(1).sort().values
    detector.settle(delta=float(largest[2] + largest[3]) / 2)
    whole = detector(images)
    alone = [detector(image[None]) for image in images]
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = detector(images[order])
    assert torch.allclose(whole.score, torch.cat([a.score for a in alone]), atol=1e-5)
    assert torch.allclose(whole.score[order], turned.score, atol=1e-5)
    assert torch.allclose(whole.anomaly_map[order], turned.anomaly_map, atol=1e-5)
    steps = detector.reconstructed(images).decision.index
    assert torch.equal(steps[order], detector.reconstructed(images[order]).decision.index)
    assert len(detector.reconstructed(images).decision.crossed.unique()) == 2


@torch.no_grad()
def test_maxima_over_the_batch_make_scores_depend_on_it(backbone, datamodule, tmp_path, images):
    keys = {"pixel": 2.0, "pixel_scale": "batch"}
    detector = prepared(glad(backbone, score=keys), datamodule, tmp_path).detector
    whole = detector(images).score
    alone = torch.cat([detector(image[None]).score for image in images])
    assert not torch.allclose(whole, alone, rtol=1e-3)


@torch.no_grad()
def test_a_constant_pixel_term_does_not(backbone, datamodule, tmp_path, images):
    module = prepared(glad(backbone, score={"pixel": 2.0}), datamodule, tmp_path)
    module.finish(datamodule)
    detector = module.detector
    assert detector.settled.pixel > 0
    alone = torch.cat([detector(image[None]).score for image in images])
    assert torch.allclose(detector(images).score, alone, atol=1e-5)


def test_the_calibrated_threshold_is_the_quantile_of_held_out_normals(
    backbone, datamodule, tmp_path
):
    module = prepared(glad(backbone, ads={"quantile": 0.5, "margin": 2.0}), datamodule, tmp_path)
    images = held_out_images(datamodule, module.synthesis, 0, torch.device("cpu"))
    settled, report = calibrated(module.detector, images)
    with torch.no_grad():
        largest = torch.cat([differences(module.detector, b.normal).score for b in images]).amax(1)
    assert settled["delta"] == pytest.approx(2 * float(largest.double().quantile(0.5)), rel=1e-5)
    assert len(report["differences_of_normals"]) == 4


def test_what_is_left_open_is_chosen_on_composites(backbone, datamodule, tmp_path):
    keys = {"reconstruct": "fixed", "start": "auto", "score": {"top": "auto"}}
    module = prepared(glad(backbone, **keys), datamodule, tmp_path)
    module.finish(datamodule)
    module.artefacts(tmp_path)
    report = module._report
    rows = {row["start"]: row["image_auroc"] + row["pixel_auroc"] for row in report["start"]}
    assert rows[report["settled"]["start"]] == max(rows.values())
    tops = {row["top"]: row["image_auroc"] for row in report["top"]}
    assert tops[report["settled"]["top"]] == max(tops.values())
    assert (tmp_path / "glad" / "reconstructions.png").is_file()
    assert (tmp_path / "glad" / "calibration.json").is_file()


def test_more_steps_are_taken_only_where_they_are_worth_it(
    backbone, datamodule, tmp_path, monkeypatch
):
    module = prepared(glad(backbone), datamodule, tmp_path)
    for gain, chosen in ((0.001, 0), (0.02, 2)):
        pixel = {0: 0.9, 1: 0.9, 2: 0.9 + gain, 4: 0.9}
        monkeypatch.setattr(
            "adbench.methods.glad.calibration._separation",
            lambda detector, images, pixel=pixel: {
                "image_auroc": 1.0,
                "pixel_auroc": pixel[detector.settled.restart],
            },
        )
        module.finish(datamodule)
        assert module.detector.settled.restart == chosen


def test_a_gate_is_settled_on_damaged_images(backbone, datamodule, tmp_path):
    module = prepared(glad(backbone, ads={"gate": True}), datamodule, tmp_path)
    module.finish(datamodule)
    assert module.detector.settled.gate >= 0
    assert module.detector.adaptive_steps(torch.zeros(1, 3, *SIZE)).rules.gate >= 0


def test_a_saved_detector_is_the_measured_one(backbone, datamodule, tmp_path, images):
    module = prepared(glad(backbone, ads={"restart": "auto"}), datamodule, tmp_path)
    module.finish(datamodule)
    save_detector(module.detector, tmp_path)
    again = load_detector(tmp_path)
    assert again.config == module.detector.config
    with torch.no_grad():
        assert torch.allclose(again(images).score, module.detector(images).score, atol=1e-6)


@pytest.mark.parametrize("bank", [0, 3])
def test_cached_latents_give_the_loss_of_fresh_ones(
    backbone, datamodule, tmp_path, bank, monkeypatch
):
    monkeypatch.setattr(type(glad(backbone)), "current_epoch", 0)
    batch = next(datamodule.train_batches(4))
    losses = []
    for memory in (1 << 30, 0):
        keys = {"latents": {"bank": bank, "max_memory": memory}, "atp": {"damaged": 0.0}}
        module = prepared(glad(backbone, **keys), datamodule, tmp_path)
        losses.append(float(module._loss(batch, 0)[0].detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # float16


def test_training_shrinks_the_loss(backbone, datamodule, tmp_path, monkeypatch):
    module = prepared(glad(backbone, optimiser={"learning_rate": 1e-2}), datamodule, tmp_path)
    monkeypatch.setattr(type(module), "current_epoch", 0)
    batch = next(datamodule.train_batches(8))
    optimiser = module.configure_optimizers()
    losses = []
    for number in range(12):
        loss, _ = module._loss(batch, number % 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-2:]) < 0.8 * sum(losses[:2])


# Several categories


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    samples = pictures(folder, 4, 0, "bright") + pictures(folder, 4, 1, "dark")
    import cv2

    for sample in samples[:4]:
        cv2.imwrite(str(sample.image), 255 - (cv2.imread(str(sample.image)) // 4))
    held = samples[3:5]
    return DataModule(Splits(samples, held, []), image_size=SIZE, batch_size=4)


def test_images_are_told_apart_by_their_features(backbone, two, tmp_path):
    module = prepared(glad(backbone), two, tmp_path)
    assert module.diffusion.classes == ["bright", "dark"]
    batches = list(two.train_batches())
    found = torch.cat([module.detector.labels(batch.image) for batch in batches])
    wanted = module.diffusion.labels([name for batch in batches for name in batch.category])
    assert torch.equal(found, wanted)
    module.finish(two)
    assert module._report["routed"] == 1
    save_detector(module.detector, tmp_path)
    again = load_detector(tmp_path)
    with torch.no_grad():
        image = batches[0].image
        assert torch.allclose(again(image).score, module.detector(image).score, atol=1e-6)


def test_an_unknown_category_is_refused_with_the_nearest(backbone, two, tmp_path):
    module = prepared(glad(backbone), two, tmp_path)
    with pytest.raises(UserError, match="no category 'brigth'; did you mean 'bright'"):
        module.diffusion.labels(["brigth"])


# Bad input


def test_without_held_out_images_nothing_is_trained(backbone, datamodule, tmp_path):
    bare = DataModule(Splits(datamodule.train_samples, [], []), image_size=SIZE, batch_size=4)
    module = glad(backbone)
    with pytest.raises(UserError, match=r"no held-out normal image.*dataset\.hold_out"):
        run_stages(module.stages(), tmp_path, bare, say=lambda line: None)
    assert not (tmp_path / "autoencoder").exists()
    fixed = glad(backbone, ads={"delta": 0.3, "restart": 0}, score={"top": 250})
    fixed.check_data(bare)  # nothing is left open


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.start=20", "model.steps=25 exceeds model.start=20"),
        ("model.start=auto", "goes with model.reconstruct=fixed"),
        ("model.stop=740", "model.stop=740 lies above the first step"),
        ("model.atp.lowest=500 model.atp.levels=400", "leaves no level to train on"),
        ("model.atp.sign=plsu", "choose one of plus, minus; did you mean 'plus'"),
        ("model.ads.delta=often", "model.ads.delta=often"),
        ("model.ads.quantile=1.5", r"model.ads.quantile=1.5: a number in \[0, 1\]"),
        ("model.score.top=0", "model.score.top=0"),
        ("model.saff.sharpness=0", "model.saff.sharpness=0"),
        ("model.micro_batch=256 model.score.chunk=2048", "exceeds 262144"),
        ("diffusion.network.widths=[1024,1024,1024] diffusion.network.blocks=6", "million weights"),
        ("diffusion.network.widths=[60]", "multiples of 8"),
        ("diffusion.network.attention=[5]", "there are 3 levels"),
        ("diffusion.network.head=48", "does not divide"),
        ("diffusion.autoencoder.crop=100", "a multiple of 8"),
        ("diffusion.autoencoder.kind=vae", "choose one of small, pca, lapped, unshuffle"),
    ],
)
def test_impossible_keys_are_one_line(override, message):
    config = compose_config("train", ["model=glad", *override.split()])
    with pytest.raises(UserError, match=message) as raised:
        settings(config)
    assert "\n" not in str(raised.value)


def test_a_layer_that_the_backbone_lacks_is_refused(backbone):
    with pytest.raises(UserError, match=r"model\.ads\.layer=2: the backbone reads 2 layers"):
        glad(backbone, ads={"layer": 2})


def test_choices_on_composites_need_a_synthesizer(backbone, datamodule):
    module = glad(backbone, ads={"restart": "auto"}, atp={"enabled": False})
    module.synthesis = None
    with pytest.raises(UserError, match="set synthesis=memseg"):
        module.check_data(datamodule)


def test_a_diverged_training_says_so(backbone, datamodule, tmp_path):
    module = prepared(glad(backbone), datamodule, tmp_path)
    torch.nn.init.constant_(module.diffusion.network.conv_out.bias, float("nan"))
    with pytest.raises(UserError, match="diverged"):
        module.finish(datamodule)


def test_a_model_without_diffusion_or_features_is_refused(backbone):
    from adbench.methods.glad.module import GladModule

    with pytest.raises(UserError, match="set diffusion=scratch"):
        GladModule(backbone=backbone, synthesis=None, diffusion=None, image_size=SIZE, seed=0)
    with pytest.raises(UserError, match="set backbone=bundled"):
        GladModule(backbone=None, synthesis=None, diffusion=diffusion(), image_size=SIZE, seed=0)


def test_sizes_are_multiples_of_what_the_network_halves(backbone):
    assert glad(backbone).requirements(1).size_multiple == 16


def test_the_defaults_of_yaml_and_record_agree():
    from dataclasses import asdict

    from adbench.config.schema import _OWN_OF_MODEL
    from adbench.config.typed import from_mapping

    section = compose_config("train", ["model=glad"])["model"]
    own = {key: value for key, value in section.items() if key not in _OWN_OF_MODEL}
    found, plain = asdict(from_mapping(GladKeys, own, "model")), asdict(GladKeys())
    for part in ("atp", "ads", "saff", "score"):
        assert found[part] == plain[part]


@pytest.mark.parametrize("preset", ["glad_paper", "glad_code", "glad_gpu", "glad_cpu"])
def test_presets_pass_the_door(preset):
    found = settings(compose_config("train", [f"experiment={preset}"]))
    assert found.protocol == ("paper" if preset == "glad_code" else "honest")


SWEEPS = {
    **dict.fromkeys(
        ("glad_table3", "glad_table4", "glad_atp", "glad_steps", "glad_predictions"), "glad_cpu"
    ),
    "glad_code_mvtec": "glad_code",
    "glad_code_mpdd": "glad_code",
    "glad_code_visa": "glad_code",
    "glad_code_pcb_bank": "glad_code",
    "glad_code_multiclass": "glad_code",
    "glad_sd": "glad_gpu",
}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_row_of_a_sweep_passes_the_door(sweep):
    from pathlib import Path

    import yaml

    from adbench.config.locate import conf_folder

    document = yaml.safe_load((Path(conf_folder()) / "sweep" / f"{sweep}.yaml").read_text())
    for row, overrides in document["rows"].items():
        config = compose_config("train", [f"experiment={SWEEPS[sweep]}", *overrides])
        assert settings(config), row


def test_methods_without_a_diffusion_model_pass_the_door_as_before():
    from adbench.config.locate import options

    for model in options("model"):
        config = compose_config("train", [f"model={model}"])
        assert settings(config), model
        assert config["diffusion"]["name"] == ("scratch" if model == "glad" else "none")
    config = compose_config("train", ["model=dfr"])
    assert settings({key: value for key, value in config.items() if key != "diffusion"})
