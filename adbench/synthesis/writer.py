"""Writes synthetic anomalies to disk: images and masks in MVTec's layout, with a manifest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adbench.data.batch import pictures
from adbench.errors import UserError
from adbench.runs.files import read_json, write_beside, write_json
from adbench.synthesis.base import Synthesizer, Synthetic

if TYPE_CHECKING:
    from adbench.data.batch import Batch
    from adbench.data.datamodule import DataModule

MANIFEST, REQUEST, CONTACT = "manifest.jsonl", "request.json", "contact.png"
_PATIENCE = 20  # batches without a single anomaly after which there is no point in going on
Picture = NDArray[np.uint8]
Row = dict[str, Any]


def write_synthetic(
    synthesizer: Synthesizer,
    datamodule: DataModule,
    folder: Path,
    *,
    n: int,
    seed: int,
    parameters: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    device: torch.device | str = "cpu",
    defect: str = "synthetic",
    say: Callable[[str], None] = print,
) -> Path:
    """Write ``n`` anomalies made of the training normals; return the manifest's path.

    Writes ``CATEGORY/test/DEFECT/00000.png``, ``CATEGORY/ground_truth/DEFECT/00000_mask.png``
    (lossless), ``manifest.jsonl`` (a line an image: file, mask, category, source, strength, area,
    seed and row of its draw), ``request.json`` (what was asked) and ``contact.png``. Images that
    the synthesizer leaves normal are not written. A batch is drawn from a seed of its own, so an
    interrupted call goes on where it stopped and ends as an uninterrupted one, and a larger n
    extends a smaller one.

    Args:
        synthesizer: prepared here.
        datamodule: its training images are used in index order, over and over.
        parameters: the synthesizer's configuration, kept in ``request.json``.
        batch_size: part of the request, since a batch shares its seed.

    Raises:
        UserError: the folder holds another request, or the synthesizer makes no anomaly.
    """
    if n < 1:
        raise UserError(f"n={n}: at least one image is expected")
    request = {
        "seed": seed,
        "batch_size": batch_size,
        "image_size": list(datamodule.image_size),
        "defect": defect,
        "device": torch.device(device).type,
        "parameters": dict(parameters or {}),
        "images": [sample.relative for sample in datamodule.train_samples],
    }
    _claim(folder, request)
    rows = read_manifest(folder)
    start = rows[-1]["batch"] if rows else 0
    synthesizer.prepare(datamodule)
    for number, batch in _batches(datamodule, batch_size, start):
        if len(rows) >= n:
            break
        made = _made(synthesizer, batch, seed, number, device)
        known = sum(row["batch"] == number for row in rows[-batch_size:])
        places = made.applied.nonzero()[known:, 0].tolist()[: n - len(rows)]
        new = _written(made, batch, places, folder / defect, len(rows))
        rows += [{**row, "seed": batch_seed(seed, number), "batch": number} for row in new]
        _append(folder, rows[len(rows) - len(new) :])
        if not rows and number >= _PATIENCE:
            raise UserError("the synthesizer leaves every image normal: nothing to write")
        say(f"synthesize: {len(rows)} of {n} images")
    write_picture(folder / CONTACT, contact_sheet(folder, rows[:n]))
    return folder / MANIFEST


def batch_seed(seed: int, number: int) -> int:
    """Return the seed of batch ``number``."""
    return int(np.random.default_rng([seed, number, 0x5EED]).integers(2**53))


def read_manifest(folder: Path) -> list[Row]:
    """Return the manifest's lines, as many as are whole; [] where there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _claim(folder: Path, request: Mapping[str, Any]) -> None:
    card = folder / REQUEST
    wanted = json.loads(json.dumps(request, default=str))
    if card.is_file():
        found = read_json(card)
        differing = [key for key in wanted if found.get(key) != wanted[key]]
        if differing:
            raise UserError(
                f"{folder} holds images of another request ({', '.join(differing)} differ): "
                "choose another folder"
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and no synthetic set: choose another folder")
    write_json(card, wanted)


def _batches(datamodule: DataModule, batch_size: int, start: int) -> Iterator[tuple[int, Batch]]:
    """Yield (number, batch) without end, over the training images again and again."""
    a_pass = -(-len(datamodule.train_samples) // batch_size)
    for turn in itertools.count(start // a_pass):
        for place, batch in enumerate(datamodule.train_batches(batch_size)):
            number = turn * a_pass + place
            if number >= start:
                yield number, batch


@torch.no_grad()
def _made(
    synthesizer: Synthesizer, batch: Batch, seed: int, number: int, device: torch.device | str
) -> Synthetic:
    generator = torch.Generator(device).manual_seed(batch_seed(seed, number))
    foreground = synthesizer.foreground_masks(batch.index.to(device))
    return synthesizer(batch.image.to(device), foreground=foreground, generator=generator)


def _written(
    made: Synthetic, batch: Batch, places: Sequence[int], target: Path, first: int
) -> list[Row]:
    """Write the anomalies at ``places`` of a batch, numbered from ``first``; return their lines."""
    folder, defect = target.parent, target.name
    images, masks = pictures(made.image), made.mask[:, 0].cpu().numpy()
    rows: list[Row] = []
    for number, place in enumerate(places, first):
        category = batch.category[place]
        file = f"{category}/test/{defect}/{number:05d}.png"
        mask = f"{category}/ground_truth/{defect}/{number:05d}_mask.png"
        write_picture(folder / file, images[place])
        write_picture(folder / mask, masks[place].astype(np.uint8) * 255)
        row: Row = {"file": file, "mask": mask, "category": category, "source": batch.path[place]}
        row["strength"] = round(float(made.strength[place]), 6)
        row["area"] = round(float(masks[place].mean()), 6)
        rows.append({**row, "row": place})
    return rows


def _append(folder: Path, rows: Sequence[Row]) -> None:
    """Add a batch's lines in one rename: a killed process leaves whole batches only."""
    path = folder / MANIFEST
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    with write_beside(path) as temporary:
        temporary.write_text(before + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] RGB or [H, W] uint8 as PNG, whole or not at all."""
    pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    with write_beside(path) as temporary:
        if not cv2.imwrite(str(temporary), pixels):
            raise OSError(f"{path} could not be written")


def contact_sheet(
    folder: Path, rows: Sequence[Row], *, most: int = 32, columns: int = 4, side: int = 192
) -> Picture:
    """Return up to ``most`` anomalies, evenly spread, each with its mask outlined beside it."""
    spread = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)
    tiles = [_tile(folder, rows[i], side) for i in spread]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return np.asarray(np.vstack(lines), dtype=np.uint8)


def _tile(folder: Path, row: Row, side: int) -> Picture:
    image = cv2.imread(str(folder / row["file"]))
    mask = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_GRAYSCALE)
    if image is None or mask is None:
        raise UserError(f"{folder / row['file']} cannot be read: remove the folder and repeat")
    image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (side, side))
    mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    outlined = cv2.drawContours(image.copy(), contours, -1, (255, 40, 40), 1)
    return np.asarray(np.hstack([image, outlined]), dtype=np.uint8)
