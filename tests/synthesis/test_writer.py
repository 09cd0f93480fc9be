"""The synthetic set on disk: layout, manifest, resumption."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from adbench.data.datamodule import DataModule, Splits
from adbench.errors import UserError
from adbench.runs.folder import locked
from adbench.synthesis.cutpaste import CutPaste
from adbench.synthesis.las import Las
from adbench.synthesis.writer import MANIFEST, read_manifest, write_synthetic


def written(datamodule, folder, n, synthesizer=None, **keys):
    synthesizer = synthesizer or Las(probability=0.5)
    keys = {"seed": 3, "batch_size": 4, "say": lambda _: None, **keys}
    return write_synthetic(synthesizer, datamodule, folder, n=n, **keys)


def content(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("contact.png", ".lock")
    }


def test_layout_manifest_and_pixels(datamodule, tmp_path):
    manifest = written(datamodule, tmp_path / "set", 7)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert len(rows) == 7
    images = sorted((tmp_path / "set/disc/test/synthetic").iterdir())
    assert [path.name for path in images] == [f"{i:05d}.png" for i in range(7)]
    originals = {s.relative: cv2.imread(str(s.image)) for s in datamodule.train_samples}
    for row in rows:
        image = cv2.imread(str(tmp_path / "set" / row["file"]))
        mask = cv2.imread(str(tmp_path / "set" / row["mask"]), cv2.IMREAD_GRAYSCALE)
        assert set(np.unique(mask)) == {0, 255}
        assert row["area"] == pytest.approx((mask > 0).mean(), abs=1e-5)
        assert np.array_equal(image[mask == 0], originals[row["source"]][mask == 0])
        assert 0.2 <= row["strength"] <= 0.8
    assert cv2.imread(str(tmp_path / "set/contact.png")) is not None


def test_an_interrupted_call_ends_as_an_uninterrupted_one(datamodule, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    written(datamodule, whole, 9)
    part = tmp_path / "part"
    written(datamodule, part, 4)
    stop = 5

    def interrupted(path, picture, real=cv2.imwrite):
        nonlocal stop
        stop -= 1
        if stop < 0:
            raise KeyboardInterrupt
        return real(path, picture)

    with monkeypatch.context() as patch:
        patch.setattr("adbench.synthesis.writer.cv2.imwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            written(datamodule, part, 9)
    assert 4 <= len(read_manifest(part)) < 9
    written(datamodule, part, 9)
    assert content(part) == content(whole)
    before = (part / MANIFEST).stat().st_mtime_ns
    written(datamodule, part, 9)
    assert (part / MANIFEST).stat().st_mtime_ns == before


def test_a_row_can_be_drawn_again_from_its_seed(datamodule, tmp_path):
    synthesizer = CutPaste()
    written(datamodule, tmp_path / "set", 5, synthesizer)
    row = read_manifest(tmp_path / "set")[4]
    batch = list(datamodule.train_batches(4))[row["batch"] % 3]
    generator = torch.Generator().manual_seed(row["seed"])
    made = synthesizer(batch.image, generator=generator)
    image = cv2.imread(str(tmp_path / "set" / row["file"]))[..., ::-1].copy()
    wanted = (made.image[row["row"]] * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(torch.from_numpy(image), wanted)


def test_another_request_or_a_foreign_folder_is_refused(datamodule, tmp_path):
    written(datamodule, tmp_path / "set", 2)
    with pytest.raises(UserError, match="seed"):
        written(datamodule, tmp_path / "set", 2, seed=4)
    with pytest.raises(UserError, match="parameters"):
        written(datamodule, tmp_path / "set", 2, parameters={"name": "las"})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        written(datamodule, tmp_path / "foreign", 2)


def test_a_synthesizer_that_does_nothing_is_refused(datamodule, tmp_path):
    with pytest.raises(UserError, match="normal"):
        written(datamodule, tmp_path / "set", 2, Las(probability=0.0))


def test_held_out_normals_can_be_used_and_are_another_request(datamodule, tmp_path):
    written(datamodule, tmp_path / "set", 4, split="held_out")
    sources = {row["source"] for row in read_manifest(tmp_path / "set")}
    assert sources <= {sample.relative for sample in datamodule.val_samples}
    assert json.loads((tmp_path / "set/request.json").read_text())["split"] == "held_out"
    with pytest.raises(UserError, match="split"):
        written(datamodule, tmp_path / "set", 4)


def test_nothing_held_out_is_said(datamodule, tmp_path):
    alone = DataModule(Splits(datamodule.train_samples, [], []), image_size=(64, 64))
    with pytest.raises(UserError, match=r"dataset\.hold_out"):
        written(alone, tmp_path / "set", 2, split="held_out")
    assert not (tmp_path / "set").exists()


def test_a_set_written_before_there_were_splits_goes_on(datamodule, tmp_path):
    written(datamodule, tmp_path / "set", 2)
    card = tmp_path / "set/request.json"
    request = json.loads(card.read_text())
    request.pop("split")
    card.write_text(json.dumps(request))
    written(datamodule, tmp_path / "set", 3)
    assert len(read_manifest(tmp_path / "set")) == 3


def test_a_second_writer_is_refused_while_the_first_one_writes(datamodule, tmp_path):
    folder = tmp_path / "set"
    with locked(folder), pytest.raises(UserError, match=r"another process.*out="):
        written(datamodule, folder, 2)
    assert not (folder / MANIFEST).exists()
    written(datamodule, folder, 2)


def test_leftovers_of_killed_writers_go_and_nothing_else_does(datamodule, tmp_path):
    folder = tmp_path / "set"
    written(datamodule, folder, 2)
    pictures = folder / "disc/test/synthetic"
    left = [folder / ".manifest.jsonl.4711.tmp.jsonl", pictures / ".00001.png.9.tmp.png"]
    kept = [folder / "notes.tmp", folder / ".hidden", folder / "disc/mine.png"]
    for path in [*left, *kept]:
        path.write_text("x")
    written(datamodule, folder, 3)
    assert not any(path.exists() for path in left)
    assert all(path.read_text() == "x" for path in kept)


@pytest.mark.parametrize(
    "spoilt",
    [b"\xff\xfe\x00", b"{", b"[1]\n", b"{}\n", b'{"batch": "x", "file": "y"}\n', b"null\n"],
)
def test_a_damaged_manifest_is_named_and_its_removal_helps(datamodule, tmp_path, spoilt):
    folder = tmp_path / "set"
    written(datamodule, folder, 3)
    before = content_but_manifest(folder)
    with open(folder / MANIFEST, "ab") as file:
        file.write(spoilt)
    with pytest.raises(UserError, match=r"manifest\.jsonl.*remove the file"):
        written(datamodule, folder, 3)
    (folder / MANIFEST).unlink()
    written(datamodule, folder, 3)
    assert content_but_manifest(folder) == before


def content_but_manifest(folder):
    return {name: digest for name, digest in content(folder).items() if name != MANIFEST}


def test_an_empty_manifest_begins_again(datamodule, tmp_path):
    written(datamodule, tmp_path / "set", 3)
    (tmp_path / "set" / MANIFEST).write_bytes(b"")
    written(datamodule, tmp_path / "set", 3)
    assert len(read_manifest(tmp_path / "set")) == 3


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b"3"])
def test_a_damaged_request_is_named(datamodule, tmp_path, content):
    written(datamodule, tmp_path / "set", 2)
    (tmp_path / "set/request.json").write_bytes(content)
    with pytest.raises(UserError, match=r"request\.json.*another folder"):
        written(datamodule, tmp_path / "set", 2)


def test_a_foreign_folder_stays_as_it_was(datamodule, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        written(datamodule, tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_category_that_climbs_out_of_the_folder_is_refused(datamodule, tmp_path):
    samples = [replace(each, category="../../up") for each in datamodule.train_samples]
    climbing = DataModule(Splits(samples, [], []), image_size=(64, 64))
    with pytest.raises(UserError, match="cannot name a folder"):
        written(climbing, tmp_path / "a" / "set", 2, Las(foreground={"method": "none"}))
    assert {path.name for path in tmp_path.iterdir()} == {"a"}


def test_pipes_in_place_of_pictures_are_not_waited_for(datamodule, tmp_path):
    written(datamodule, tmp_path / "set", 2)
    path = tmp_path / "set/disc/test/synthetic/00000.png"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"00000\.png or its mask cannot be read"):
        written(datamodule, tmp_path / "set", 2)
