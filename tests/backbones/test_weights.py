"""Whatever may stand behind backbone.weights: a network or one line, never code, never a wait."""

from __future__ import annotations

import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from adbench.backbones import FeatureExtractor, build_backbone
from adbench.backbones.bundled_network import BundledNetwork
from adbench.backbones.weights import read_tensors
from adbench.errors import UserError


class Intruder:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def state(**changed):
    return {**{k: v.contiguous() for k, v in BundledNetwork().state_dict().items()}, **changed}


def whole(path):
    save_file(state(), path)
    return path.read_bytes()


def folder(path):
    path.mkdir()


def pipe(path):
    os.mkfifo(path)


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    path.write_bytes(whole(path)[:-1000])


def cut_header(path):
    path.write_bytes(whole(path)[:100])


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def far_offsets(path):
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def noise(path):
    path.write_bytes(bytes(range(256)) * 50)


def wrong_shapes(path):
    save_file({name: value[:2].contiguous() for name, value in state().items()}, path)


def not_finite(path):
    save_file(state(**{"stem.conv.bias": torch.full((64,), torch.nan)}), path)


def integers(path):
    save_file({name: torch.zeros(2, dtype=torch.int64) for name in state()}, path)


def no_tensors(path):
    torch.save({"a": 1}, path)


def a_list(path):
    torch.save([1, 2], path)


def one_tensor(path):
    torch.save(torch.zeros(3), path)


def odd_names(path):
    torch.save({3: torch.zeros(3), ("a", "b"): torch.zeros(2)}, path)


def legacy_pickle(path):
    path.write_bytes(pickle.dumps({"a": 1}))


BAD = [
    folder,
    pipe,
    empty,
    truncated,
    cut_header,
    huge_header,
    far_offsets,
    noise,
    wrong_shapes,
    not_finite,
    integers,
    no_tensors,
    a_list,
    one_tensor,
    odd_names,
    legacy_pickle,
]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_files_are_one_line(make, suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    make(path)
    with pytest.raises(UserError) as raised:
        build_backbone("bundled", ["layer1"], weights=str(path))
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "name", ["weights.pth", "weights.pt", "weights.bin", "weights.safetensors"]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_file_runs_code(name, wrapped, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / name
    intruder = Intruder(mark)
    torch.save({"state_dict": intruder, **state()} if wrapped else intruder, path)
    with pytest.raises(UserError, match="cannot be read as weights"):
        build_backbone("bundled", ["layer1"], weights=path)
    path.write_bytes(pickle.dumps(intruder))
    with pytest.raises(UserError, match="cannot be read as weights"):
        build_backbone("bundled", ["layer1"], weights=path)
    assert not mark.exists()


def test_a_device_file_is_not_read():
    with pytest.raises(UserError, match="no regular file"):
        build_backbone("bundled", ["layer1"], weights="/dev/zero")
    with pytest.raises(UserError, match="no regular file"):
        read_tensors("/dev/zero")


def test_a_home_folder_is_resolved_and_a_near_name_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(state(), tmp_path / "mine.safetensors")
    loaded = build_backbone("bundled", ["layer1"], weights="~/mine.safetensors")
    assert loaded.record["path"] == str(tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match=r"did you mean 'mine\.safetensors'"):
        build_backbone("bundled", ["layer1"], weights="~/mines.safetensors")


@pytest.mark.parametrize(
    ("layers", "told"),
    [
        ("layer2", "a list is expected"),
        (5, "a list is expected"),
        (None, "a list is expected"),
        ([], "no layer to read"),
        (["layer1", "layer1"], "more than once"),
        (["layer1", 0], "more than once"),
        (["layer9"], "no layer 'layer9'"),
        ([7], "no layer '7'"),
        ([True], "no layer 'True'"),
        ([None], "no layer 'None'"),
        ([["layer1"]], "no layer"),
    ],
)
def test_layers_that_cannot_be_read(layers, told):
    with pytest.raises(UserError, match=told):
        build_backbone("bundled", layers)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "no backbone"),
        ("resnet18.", "no backbone"),
        ("../resnet18", "no backbone"),
        ("hf-hub:timm/resnet18", "no backbone"),
        ("resnet18.tv_in1", "no weights under the tag 'tv_in1'; did you mean 'tv_in1k'"),
    ],
)
def test_names_that_timm_does_not_know(name, told):
    with pytest.raises(UserError, match=told):
        build_backbone(name, [0], weights="random")


def test_a_network_without_maps_is_refused(monkeypatch):
    import timm

    def refused(*args, **keys):
        raise RuntimeError("features_only not implemented for this network")

    monkeypatch.setattr(timm, "create_model", refused)
    with pytest.raises(UserError, match=r"cannot give its layers' maps \(features_only"):
        FeatureExtractor("resnet18", [0])


def test_a_network_of_one_size_says_so():
    extractor = FeatureExtractor("mixer_s32_224", [0])
    with pytest.raises(UserError, match=r"224.*dataset\.image_size"):
        extractor(torch.rand(1, 3, 64, 64))


def test_maps_with_channels_last_are_turned():
    extractor = FeatureExtractor("swin_tiny_patch4_window7_224", [0, 1])
    maps = extractor(torch.rand(1, 3, 224, 224))
    assert [tuple(found.shape[1:]) for found in maps] == [(96, 56, 56), (192, 28, 28)]
