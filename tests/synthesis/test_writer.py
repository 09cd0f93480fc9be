"""The synthetic set on disk: layout, manifest, resumption."""

from __future__ import annotations

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch

from adbench.errors import UserError
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
        if path.is_file() and path.name != "contact.png"
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
