"""What adbench, what it ships and what it reads come under: for `adbench info licences`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

import yaml

# what our rooms were built from besides the papers: read for facts, no line of it is here
_AUTHORS = {
    "GLASS": "github.com/cqylunlun/GLASS: MIT",
    "RealNet, SDAS": "github.com/cnulab/RealNet: MIT",
    "GLAD": "github.com/hyao1/GLAD: MIT",
    "ULSAD": "github.com/sukanyapatra1997/ULSAD-2024: no licence file: read for facts only",
    "GAA": "no code of its authors is known",
}
_TRAINED_FROM = "trained by others on ImageNet; whether its terms reach weights is not settled"
_WEIGHTS = (
    ("backbone=bundled", "Apache-2.0, as far as adbench can give it",
     "in the wheel; imitates torchvision's ResNet-18, which was " + _TRAINED_FROM
     + "; see adbench/backbones/bundled.md"),
    ("backbone=resnet18, resnet50, wide_resnet50_2", "BSD-3-Clause (torchvision)",
     "not shipped; " + _TRAINED_FROM),
    ("backbone=efficientnet_b4", "Apache-2.0 (timm)", "not shipped; " + _TRAINED_FROM),
    ("backbone=dinov2_small", "Apache-2.0 (Meta)", "not shipped; pictures of the web"),
    ("diffusion=sd15", "CreativeML Open RAIL-M: restricts uses",
     "not shipped; loaded from a folder of yours"),
    ("synthesis=dtd_published, las_published", "DTD: research only",
     "textures, not shipped; the default textures are made by formulas"),
)  # fmt: skip


def tables(*, installed: bool = True) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield (title, header, rows) of each table.

    Args:
        installed: with the packages that this environment holds, which differ between machines.
    """
    from adbench.data.catalogue import CATALOGUE

    yield (
        "code",
        ["what", "terms", "note"],
        [
            ["adbench", "Apache-2.0", "all of the code; LICENSE"],
            *[[name, "", f"read: {told}"] for name, told in _AUTHORS.items()],
        ],
    )
    yield "weights and textures", ["what", "terms", "note"], [list(row) for row in _WEIGHTS]
    yield (
        "data sets (none is shipped; adbench downloads none)",
        ["what", "terms", "where"],
        [[entry.name, entry.licence, entry.page] for entry in CATALOGUE.values()],
    )
    yield "papers (their figures are quoted as facts)", ["what", "where", "title"], _papers()
    if installed:
        rows = sorted(_dependencies())
        yield "packages that adbench needs, as installed here", ["what", "version", "terms"], rows


def _papers() -> list[list[str]]:
    from importlib.resources import files

    rows = []
    folder = files("adbench.reports") / "papers"
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.name.endswith(".yaml"):
            head = entry.read_text(encoding="utf-8").split("\ncaveats:")[0]
            found = yaml.safe_load(head)
            rows.append([found["method"], found["venue"], found["title"]])
    return rows


def _dependencies() -> Iterator[list[str]]:
    """Yield what the core and the extras name, where it is installed."""
    try:
        needed = metadata.requires("adbench") or []
    except metadata.PackageNotFoundError:  # a checkout on the path
        needed = []
    for name in {re.split(r"[^\w.-]", line)[0] for line in needed} - {"adbench"}:
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        yield [name, str(found["Version"]), _terms(found)]


def _terms(found: metadata.PackageMetadata) -> str:
    """Return a package's own statement: expression, classifiers, or its text's first line."""
    stated = (found.get_all("License-Expression") or [""])[0]
    if stated:
        return str(stated)
    classes = [c for c in found.get_all("Classifier") or [] if c.startswith("License ::")]
    if classes:
        return "; ".join(each.rpartition(":: ")[2] for each in classes)
    text = str((found.get_all("License") or [""])[0]).strip()
    return text.splitlines()[0][:60] if text else "see its files"
