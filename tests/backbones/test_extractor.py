"""Feature extractors: what they read, where they are cut, which weights they accept."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from adbench.backbones import FeatureExtractor, build_backbone
from adbench.backbones.bundled_network import BundledNetwork
from adbench.errors import UserError

IMAGE = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "layers"),
    [("bundled", ["layer1", "layer3"]), ("resnet18", ["layer2", "layer3"]), ("resnet18", [3, 1])],
)
def test_channels_and_strides_are_those_of_the_maps(name, layers):
    extractor = FeatureExtractor(name, layers)
    maps = extractor(IMAGE)
    assert [m.shape[1] for m in maps] == extractor.channels
    assert [64 // m.shape[2] for m in maps] == extractor.strides


def test_transformer_tokens_become_maps_at_any_size():
    extractor = FeatureExtractor("vit_tiny_patch16_224", [2, "blocks.5"])
    first, second = extractor(torch.rand(1, 3, 64, 96))
    assert first.shape == second.shape == (1, 192, 4, 6)
    assert extractor.layers == ["blocks.2", "blocks.5"]


def test_images_that_end_within_a_patch_are_continued():
    extractor = FeatureExtractor("vit_tiny_patch16_224", [0])
    image = torch.rand(1, 3, 40, 48)
    longer = torch.nn.functional.pad(image, (0, 0, 0, 8), mode="replicate")
    assert torch.allclose(extractor(image)[0], extractor(longer)[0], atol=1e-6)
    assert extractor(image)[0].shape[-2:] == (3, 3)


def test_untrained_values_are_the_same_in_every_process():
    torch.manual_seed(1)
    first = build_backbone("resnet18", ["layer1"], weights="random")
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = build_backbone("resnet18", ["layer1"], weights="random")
    assert torch.equal(first(IMAGE)[0], second(IMAGE)[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_nothing_runs_beyond_the_last_layer_read():
    names = set(FeatureExtractor("resnet18", ["layer1", "layer2"]).network.state_dict())
    assert not any(name.startswith(("layer3", "layer4", "fc")) for name in names)
    assert "layer3" not in dict(FeatureExtractor("bundled", ["layer2"]).network.named_children())


def test_a_later_cut_leaves_earlier_maps_as_they_are():
    torch.manual_seed(0)
    long = FeatureExtractor("resnet18", ["layer2", "layer3"])
    short = FeatureExtractor("resnet18", ["layer2"])
    short.network.load_state_dict(
        {k: v for k, v in long.network.state_dict().items() if k in short.network.state_dict()}
    )
    assert torch.equal(short(IMAGE)[0], long(IMAGE)[0])


def test_frozen_and_in_eval_mode_whatever_is_asked():
    extractor = FeatureExtractor("resnet18", ["layer2"]).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_config_rebuilds_the_architecture():
    first = FeatureExtractor("resnet18", [1, "layer3"])
    second = FeatureExtractor(**first.config)
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(first(IMAGE), second(IMAGE), strict=True))


def test_images_are_normalised_inside():
    torch.manual_seed(0)
    plain = FeatureExtractor("bundled", ["layer1"], mean=[0, 0, 0], std=[1, 1, 1])
    torch.manual_seed(0)
    usual = FeatureExtractor("bundled", ["layer1"])
    by_hand = (IMAGE - usual.mean) / usual.std
    assert torch.allclose(usual(IMAGE)[0], plain(by_hand)[0], atol=1e-6)


PADDED = ("zeros", "reflect")


@pytest.mark.parametrize("factor", [0.05, 0.5, 1.7])
def test_exposure_takes_a_factor_of_light_out(factor):
    extractor = FeatureExtractor("bundled", ["layer1"], exposure=0.4)
    usual, other = extractor(0.5 * IMAGE)[0], extractor(0.5 * factor * IMAGE)[0]
    assert torch.allclose(usual, other, atol=1e-4)
    assert not torch.allclose(usual, FeatureExtractor("bundled", ["layer1"])(0.5 * IMAGE)[0])


def test_exposure_is_each_images_own_and_keeps_one_of_that_grey():
    plain = FeatureExtractor("bundled", ["layer1"])
    extractor = FeatureExtractor("bundled", ["layer1"], exposure=0.4)
    at_target = IMAGE * (0.4 / IMAGE.mean((1, 2, 3), keepdim=True))
    assert torch.allclose(extractor(at_target)[0], plain(at_target)[0], atol=1e-4)
    pair = torch.cat([at_target[:1], 0.3 * at_target[:1]])
    assert torch.allclose(extractor(pair)[0][1:], plain(at_target[:1])[0], atol=1e-4)


def test_exposure_of_a_black_image_is_finite_and_rebuilt_from_the_config():
    extractor = FeatureExtractor("bundled", ["layer1"], exposure=0.4)
    assert extractor(torch.zeros(1, 3, 64, 64))[0].isfinite().all()
    assert FeatureExtractor(**extractor.config).exposure == 0.4
    for refused in (0, -1, 1.5):
        with pytest.raises(UserError, match=r"backbone\.exposure"):
            FeatureExtractor("bundled", ["layer1"], exposure=refused)


@pytest.mark.parametrize("name", ["bundled", "resnet18"])
def test_mirrored_borders_are_no_edge(name):
    even = torch.full((1, 3, 96, 64), 0.3)
    for found in FeatureExtractor(name, ["layer1", "layer2"], padding="reflect")(even):
        assert torch.allclose(found, found[:, :, :1, :1].expand_as(found), atol=1e-5)
    for found in FeatureExtractor(name, ["layer1", "layer2"])(even):
        assert (found - found[:, :, :1, :1]).abs().amax() > 1e-2  # zeros make one


def test_mirrored_borders_change_nothing_far_from_them():
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    (usual,), (found,) = (FeatureExtractor("bundled", ["layer1"], padding=p)(image) for p in PADDED)
    assert torch.allclose(usual[..., 8:-8, 8:-8], found[..., 8:-8, 8:-8], atol=1e-5)
    assert not torch.allclose(usual, found, atol=1e-2)


def test_mirrored_borders_are_rebuilt_from_the_config_with_the_same_weights():
    usual, found = (FeatureExtractor("resnet18", ["layer2"], padding=p) for p in PADDED)
    again = FeatureExtractor(**found.config)
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in usual.state_dict().items()
    }
    assert torch.equal(again(IMAGE)[0], found(IMAGE)[0])


def test_mirrored_borders_are_refused_where_a_network_pads_in_its_own_way():
    with pytest.raises(
        UserError, match=r"backbone\.padding=reflect: .* its own way \(Conv2dSame\)"
    ):
        FeatureExtractor("tf_efficientnet_b0", [1], padding="reflect")


def test_a_network_that_pads_nowhere_has_no_border_to_mirror():
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    usual, found = (FeatureExtractor("vit_tiny_patch16_224", [0], padding=p) for p in PADDED)
    assert torch.equal(usual(image)[0], found(image)[0])


def test_mirrored_borders_are_written_as_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    extractor = FeatureExtractor("bundled", ["layer2"], padding="reflect")
    path = tmp_path / "network.onnx"
    torch.onnx.export(extractor, (IMAGE[:1],), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path)
    (found,) = session.run(None, {session.get_inputs()[0].name: IMAGE[:1].numpy()})
    assert torch.allclose(torch.from_numpy(found), extractor(IMAGE[:1])[0], atol=1e-4)


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        FeatureExtractor("resnt18", ["layer1"])
    with pytest.raises(UserError, match="no layer 'layer9'"):
        FeatureExtractor("resnet18", ["layer9"])


def test_a_partial_file_is_accepted_when_it_covers_what_is_read(tmp_path):
    whole = FeatureExtractor("resnet18", ["layer1", "layer2"])
    path = tmp_path / "part.safetensors"
    state = {k: v.contiguous() for k, v in whole.network.state_dict().items()}
    save_file(state, path)
    loaded = build_backbone("resnet18", ["layer2"], weights=path)
    assert torch.equal(loaded(IMAGE)[0], whole(IMAGE)[1])
    assert len(loaded.record["sha256"]) == 64
    assert str(path) in loaded.record["source"]
    with pytest.raises(UserError, match=r"lacks layer3\.0\.conv1"):
        build_backbone("resnet18", ["layer3"], weights=path)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    state = BundledNetwork().state_dict()
    save_file({k: v[:2].contiguous() for k, v in state.items()}, path)
    with pytest.raises(UserError, match="belongs to another network"):
        build_backbone("bundled", ["layer1"], weights=path)


def test_broken_and_missing_files_are_named(tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors here")
    with pytest.raises(UserError, match="cannot be read as weights"):
        build_backbone("bundled", ["layer1"], weights=broken)
    with pytest.raises(UserError, match="does not exist"):
        build_backbone("bundled", ["layer1"], weights=tmp_path / "absent.pth")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": FeatureExtractor("bundled", ["layer1"])}, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        build_backbone("bundled", ["layer1"], weights=path)


def test_without_cache_and_hub_the_ways_out_are_told(monkeypatch, tmp_path):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as raised:
        build_backbone("resnet18.tv_in1k", ["layer1"])
    for way in ("weights=PATH", "network", "backbone=bundled", "=random"):
        assert way in str(raised.value)


def test_the_hub_cache_is_used_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub

    whole = FeatureExtractor("resnet18.tv_in1k", ["layer1"])
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in whole.network.state_dict().items()}, path)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(path))
    loaded = build_backbone("resnet18.tv_in1k", ["layer1"])
    assert torch.equal(loaded(IMAGE)[0], whole(IMAGE)[0])
    assert loaded.record["source"].startswith("hub ")


def test_an_untagged_name_is_refused_at_the_hub():
    with pytest.raises(UserError, match="has no tag"):
        build_backbone("wide_resnet50_2", ["layer1"])


def test_random_weights_are_marked():
    assert build_backbone("bundled", ["layer1"], weights="random").record["source"] == "random"


@pytest.mark.shared
def test_the_shared_resnet18_covers_layers_1_to_3(shared):
    path = shared / "weights" / "resnet18.tv_in1k.layer1-3.safetensors"
    extractor = build_backbone("resnet18.tv_in1k", ["layer2", "layer3"], weights=path)
    assert extractor.channels == [128, 256]
    with pytest.raises(UserError, match="layer4"):
        build_backbone("resnet18.tv_in1k", ["layer4"], weights=path)
