"""Regions of canvases from every source, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from adbench.backbones.weights import build_backbone
from adbench.errors import UserError
from adbench.methods.gaa.regions import Regions
from adbench.methods.gaa.segmenting import Sam, SegGpt, check_segmenter, distinct, labelled
from adbench.methods.gaa.settings import RegionKeys

CPU = torch.device("cpu")


def canvas(number=0):
    """A bright half beside a striped one, moved a little from picture to picture."""
    rng = np.random.default_rng(number)
    image = rng.integers(90, 100, (64, 64, 3), dtype=np.uint8)
    image[:, 30 + number :] = rng.integers(200, 210, (64, 34 - number, 3), dtype=np.uint8)
    image[::4, : 30 + number] = 20
    return image


def truth(number=0):
    labels = np.full((64, 64), 7, np.uint8)
    labels[:, 30 + number :] = 9
    return labels


class Data:
    """As much of a data module as regions need."""

    def __init__(self, tmp_path, count=4):
        self.images = [canvas(i) for i in range(count)]
        self.train_samples = [
            SimpleNamespace(category="nut", image=tmp_path / f"{i:03d}.png", relative=f"{i:03d}")
            for i in range(count)
        ]

    def train_images(self, index):
        stack = np.stack([self.images[i] for i in index.tolist()])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def backbone():
    return build_backbone(name="bundled", layers=["layer1", "layer2"])


def found(tmp_path, backbone=None, **keys):
    data = Data(tmp_path)
    regions = Regions(RegionKeys(**keys), backbone, CPU)
    regions.prepare(data, 0)
    return [regions.of(i, s) for i, s in zip(data.images, data.train_samples, strict=True)]


def write(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), labels)
    return path


def test_a_template_is_every_pictures_label_at_its_size(tmp_path):
    file = write(tmp_path / "t.png", cv2.resize(truth(), (32, 32), interpolation=0))
    for labels in found(tmp_path, kind="template", root=str(file)):
        assert (labels == truth()).all()


def test_files_are_each_pictures_own(tmp_path):
    for i in range(4):
        write(tmp_path / f"r/nut/{i:03d}.png", truth(i))
    for i, labels in enumerate(found(tmp_path, kind="files", root=str(tmp_path / "r"))):
        assert (labels == truth(i)).all()


def test_two_annotated_pictures_are_carried_over_to_all(tmp_path, backbone):
    for i in (0, 3):
        write(tmp_path / f"r/nut/{i:03d}.png", truth(i))
    made = found(tmp_path, backbone, kind="propagate", root=str(tmp_path / "r"))
    for i, labels in enumerate(made):
        assert set(np.unique(labels)) == {7, 9}
        assert (labels == truth(i)).mean() > 0.9


def test_groups_of_patch_features_name_the_same_part_alike(tmp_path, backbone):
    made = found(tmp_path, backbone, kind="features", parts=2)
    left, right = (
        {int(np.bincount(m[:, side].ravel()).argmax()) for m in made}
        for side in (slice(4, 24), slice(40, 60))
    )
    assert len(left) == len(right) == 1
    assert left != right


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: None, r"001\.png is missing for 001; kind=propagate"),
        (lambda root: write(root / "nut/001.png", 0 * truth()), "every pixel is 0"),
    ],
)
def test_label_files_that_say_nothing_are_one_line(spoil, told, tmp_path):
    write(tmp_path / "r/nut/000.png", truth())
    spoil(tmp_path / "r")
    with pytest.raises(UserError, match=told):
        found(tmp_path, kind="files", root=str(tmp_path / "r"))


def test_no_reference_at_all_is_one_line(tmp_path, backbone):
    with pytest.raises(UserError, match="three to five are needed"):
        found(tmp_path, backbone, kind="propagate", root=str(tmp_path))


@pytest.mark.parametrize("kind", ["sam", "seggpt"])
def test_segmenters_without_weights_are_refused_with_what_works(kind, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"weights is missing.*kind=features"):
        check_segmenter(kind, None)
    with pytest.raises(UserError, match=r"config\.json, preprocessor_config\.json, model"):
        check_segmenter(kind, str(tmp_path))
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'adbench\[text\]'.*kind=features"):
        check_segmenter(kind, str(tmp_path))


def test_repeated_masks_count_once_and_small_ones_lie_on_large_ones():
    large, small = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    large[2:18, 2:18], small[5:9, 5:9] = True, True
    again = large.copy()
    again[2] = False
    labels = labelled(distinct([small, large, again]), (20, 20))
    assert (labels[small] == 2).all()
    assert (labels[large & ~small] == 1).all()
    assert (labels[~large] == 0).all()
    with pytest.raises(UserError, match="found no region"):
        labelled([], (20, 20))


def tiny_sam(folder):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
            "mlp_dim": 32,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    transformers.SamModel(config).save_pretrained(folder)
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    ).save_pretrained(folder)
    return check_segmenter("sam", str(folder))


def test_sam_is_read_from_its_layout_and_labels_a_picture(tmp_path):
    folder = tiny_sam(tmp_path)
    labels = Sam(folder, CPU, trust=-1e9)(canvas())
    assert labels.shape == (64, 64)
    assert labels.dtype == np.uint8
    assert labels.max() >= 1
    with pytest.raises(UserError, match="found no region in the first canvas"):
        Sam(folder, CPU, trust=1e9)(canvas())
    with pytest.raises(UserError, match="is no SegGptForImageSegmentation"):
        SegGpt(folder, CPU, [canvas()], [truth()])


def test_seggpt_carries_a_references_names_over(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegGptConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[64, 32],
        patch_size=8,
        mlp_dim=32,
        pretrain_image_size=32,
        decoder_hidden_size=8,
        merge_index=0,
        intermediate_hidden_state_indices=[0, 1],
    )
    transformers.SegGptForImageSegmentation(config).save_pretrained(tmp_path)
    size = {"height": 32, "width": 32}
    transformers.SegGptImageProcessor(size=size).save_pretrained(tmp_path)
    folder = check_segmenter("seggpt", str(tmp_path))
    labels = SegGpt(folder, CPU, [canvas(), canvas(1)], [truth(), truth(1)])(canvas(2))
    assert labels.shape == (64, 64)
    assert set(np.unique(labels)) <= {0, 7, 9}
