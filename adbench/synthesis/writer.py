"""Writes synthetic anomalies to disk: images and masks in MVTec's layout, with a manifest."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from adbench.data.batch import pictures
from adbench.errors import UserError
from adbench.runs.alone import holds_nothing, written_alone
from adbench.runs.files import read_record, write_beside, write_json
from adbench.runs.pictures import grid, write_png
from adbench.synthesis.base import Synthesizer, Synthetic

if TYPE_CHECKING:
    from adbench.data.batch import Batch
    from adbench.data.datamodule import DataModule

MANIFEST, REQUEST, CONTACT = "manifest.jsonl", "request.json", "contact.png"
_PATIENCE = 20  # batches without a single anomaly after which there is no point in going on
Picture = NDArray[np.uint8]
Row = dict[str, Any]
Split = Literal["train", "held_out"]
_BANKS = {"train": "train", "held_out": "val"}  # names of the foregrounds' splits


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
    split: Split = "train",
    say: Callable[[str], None] = print,
) -> Path:
    """Write ``n`` anomalies made of normal images; return the manifest's path.

    Writes ``CATEGORY/test/DEFECT/00000.png``, ``CATEGORY/ground_truth/DEFECT/00000_mask.png``
    (lossless), ``manifest.jsonl`` (a line an image: file, mask, category, source, strength, area,
    seed and row of its draw), ``request.json`` (what was asked) and ``contact.png``. Images that
    the synthesizer leaves normal are not written. A batch is drawn from a seed of its own, so an
    interrupted call goes on where it stopped and ends as an uninterrupted one, and a larger n
    extends a smaller one.

    Args:
        synthesizer: prepared here.
        datamodule: its normal images are used in index order, over and over.
        split: which of them: those of training, or those held out from it.
        parameters: the synthesizer's configuration, kept in ``request.json``.
        batch_size: part of the request, since a batch shares its seed.

    Raises:
        UserError: the folder holds another request or something else, another process writes
            it, its manifest is damaged, the split is empty, or the synthesizer makes no anomaly.
    """
    samples = datamodule.train_samples if split == "train" else datamodule.val_samples
    if not samples:
        remedy = ": nothing is held out, raise dataset.hold_out" if split == "held_out" else ""
        raise UserError(f"split={split} has no normal image{remedy}")
    request = {
        "split": split,
        "seed": seed,
        "batch_size": batch_size,
        "image_size": list(datamodule.image_size),
        "defect": defect,
        "device": torch.device(device).type,
        "parameters": dict(parameters or {}),
        "images": [sample.relative for sample in samples],
    }
    wanted = json.loads(json.dumps(request, default=str))
    check_claim(folder, wanted)
    with written_alone(folder, "out"):
        check_claim(folder, wanted)
        write_json(folder / REQUEST, wanted)
        rows = read_manifest(folder)
        synthesizer.prepare(datamodule)
        draws = _draws(synthesizer, datamodule, request, rows[-1]["batch"] if rows else 0, device)
        _fill(folder / defect, rows, n, draws, request, say)
        write_png(folder / CONTACT, contact_sheet(folder, rows[:n]))
    return folder / MANIFEST


def _fill(
    target: Path,
    rows: list[Row],
    n: int,
    draws: Iterator[tuple[int, Batch, Synthetic]],
    request: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:
    """Write anomalies until ``rows``, which grows, holds ``n``."""
    while len(rows) < n:
        number, batch, made = next(draws)
        # an interrupted call may have left the manifest within a batch
        known = sum(row["batch"] == number for row in rows[-request["batch_size"] :])
        places = made.applied.nonzero()[known:, 0].tolist()[: n - len(rows)]
        new = _written(made, batch, places, target, len(rows))
        seed = batch_seed(request["seed"], number)
        rows += [{**row, "seed": seed, "batch": number} for row in new]
        _append(target.parent, rows[len(rows) - len(new) :])
        if not rows and number >= _PATIENCE:
            raise UserError("the synthesizer leaves every image normal: nothing to write")
        say(f"synthesize: {len(rows)} of {n} images")


def batch_seed(seed: int, number: int) -> int:
    """Return the seed of batch ``number``."""
    return int(np.random.default_rng([seed, number, 0x5EED]).integers(2**53))


def read_manifest(folder: Path) -> list[Row]:
    """Return the manifest's lines; [] where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return []
    rows: list[Row] = []
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append({**row, "batch": int(row["batch"]), "file": str(row["file"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}, line {len(rows) + 1} is no line of a manifest: remove the file, and the same "
            "command makes the set again"
        ) from error
    return rows


def check_claim(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raise UserError where a request may not write ``folder``; nothing is changed.

    Args:
        wanted: the request in plain values, as ``request.json`` holds it.
    """
    card = folder / REQUEST
    if not card.is_file():
        if not holds_nothing(folder):
            raise UserError(f"{folder} is not empty and no synthetic set: choose another folder")
        return
    try:
        found = {"split": "train", **read_record(card)}
    except UserError as error:
        raise UserError(f"{card} cannot be read: choose another folder, or remove it") from error
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UserError(
            f"{folder} holds images of another request ({', '.join(differing)} differ): "
            "choose another folder"
        )


def _draws(
    synthesizer: Synthesizer,
    datamodule: DataModule,
    request: Mapping[str, Any],
    start: int,
    device: torch.device | str,
) -> Iterator[tuple[int, Batch, Synthetic]]:
    """Yield batches from number ``start`` on without end, each with what was made of it."""
    size, split = request["batch_size"], request["split"]
    batches = datamodule.train_batches if split == "train" else datamodule.val_batches
    a_pass = -(-len(request["images"]) // size)
    for turn in itertools.count(start // a_pass):
        for place, batch in enumerate(batches(size)):
            number = turn * a_pass + place
            if number >= start:
                made = _made(synthesizer, batch, request["seed"], number, device, _BANKS[split])
                yield number, batch, made


@torch.no_grad()
def _made(
    synthesizer: Synthesizer,
    batch: Batch,
    seed: int,
    number: int,
    device: torch.device | str,
    bank: str,
) -> Synthetic:
    generator = torch.Generator(device).manual_seed(batch_seed(seed, number))
    foreground = synthesizer.foreground_masks(batch.index.to(device), bank)
    return synthesizer(batch.image.to(device), foreground=foreground, generator=generator)


def _written(
    made: Synthetic, batch: Batch, places: Sequence[int], target: Path, first: int
) -> list[Row]:
    """Write the anomalies at ``places`` of a batch, numbered from ``first``; return their lines."""
    folder, defect = target.parent, target.name
    images, masks = pictures(made.image), made.mask[:, 0].cpu().numpy()
    rows: list[Row] = []
    for number, place in enumerate(places, first):
        category = _folder_name(batch.category[place])
        file = f"{category}/test/{defect}/{number:05d}.png"
        mask = f"{category}/ground_truth/{defect}/{number:05d}_mask.png"
        write_png(folder / file, images[place])
        write_png(folder / mask, masks[place].astype(np.uint8) * 255)
        row: Row = {"file": file, "mask": mask, "category": category, "source": batch.path[place]}
        row["strength"] = round(float(made.strength[place]), 6)
        row["area"] = round(float(masks[place].mean()), 6)
        rows.append({**row, "row": place})
    return rows


def _folder_name(category: str) -> str:
    """Return a category that stays below the set's folder."""
    if not category or "\\" in category or {"", ".", ".."} & set(category.split("/")):
        raise UserError(f"category '{category}' cannot name a folder of a synthetic set")
    return category


def _append(folder: Path, rows: Sequence[Row]) -> None:
    """Add a batch's lines in one rename: a killed process leaves whole batches only."""
    path = folder / MANIFEST
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    with write_beside(path) as temporary:
        temporary.write_text(before + "".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def contact_sheet(
    folder: Path, rows: Sequence[Row], *, most: int = 32, columns: int = 4, side: int = 192
) -> Picture:
    """Return up to ``most`` anomalies, evenly spread, each with its mask outlined beside it."""
    spread = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int)
    tiles = [_tile(folder, rows[i], side) for i in spread]
    return grid(tiles, columns)


def _tile(folder: Path, row: Row, side: int) -> Picture:
    file, own = folder / row["file"], folder / str(row.get("mask"))
    # What is no regular file (a pipe) would be waited for for ever.
    image = cv2.imread(str(file)) if file.is_file() else None
    mask = cv2.imread(str(own), cv2.IMREAD_GRAYSCALE) if own.is_file() else None
    if image is None or mask is None:
        raise UserError(
            f"{file} or its mask cannot be read: remove {folder / MANIFEST}, and the same command "
            "makes the set again"
        )
    image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (side, side))
    mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    outlined = cv2.drawContours(image.copy(), contours, -1, (255, 40, 40), 1)
    return np.asarray(np.hstack([image, outlined]), dtype=np.uint8)
