"""Known data sets: published counts, licences, pages, hashes; and where each is looked for.

Counts come from the sets' own file lists where those could be read, else from their papers; they
are compared with what is on disk and never enforced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adbench.data.files import is_harmless_name, shown_path
from adbench.data.places import default_cache_folder
from adbench.errors import UserError, nearest

NC = "CC BY-NC-SA 4.0"


@dataclass(frozen=True, slots=True)
class Counts:
    """Images of one category: training, validation, normal test, defective test."""

    train: int
    val: int
    good: int
    bad: int

    def __str__(self) -> str:
        return f"{self.train}/{self.val}/{self.good}/{self.bad}"


@dataclass(frozen=True, slots=True)
class KnownDataset:
    """What is published about a data set.

    Attributes:
        name: the configuration's name, ``dataset=NAME``.
        licence: licence or terms, as printed by ``data list``.
        page: where it can be had; some pages ask for terms to be accepted.
        totals: published sums over all categories.
        archive: file name or address of what is to be unpacked.
        sha256, md5: its hash, where published.
        counts: by category, where published.
        uncounted: categories without published counts.
        note: what a reader of its numbers should know.
    """

    name: str
    licence: str
    page: str
    totals: Counts | None = None
    archive: str = ""
    sha256: str = ""
    md5: str = ""
    counts: Mapping[str, Counts] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    note: str = ""

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, sorted."""
        return tuple(sorted((*self.counts, *self.uncounted)))

    @property
    def train(self) -> int | None:
        """Training images of all categories."""
        return self.totals.train if self.totals else None

    @property
    def val(self) -> int | None:
        """Validation images of all categories."""
        return self.totals.val if self.totals else None

    @property
    def test_good(self) -> int | None:
        """Normal test images of all categories."""
        return self.totals.good if self.totals else None

    @property
    def test_bad(self) -> int | None:
        """Defective test images of all categories."""
        return self.totals.bad if self.totals else None


def _counts(table: str) -> dict[str, Counts]:
    """Read ``name train/val/good/bad`` entries separated by semicolons."""
    entries = (entry.split() for entry in table.split(";"))
    return {name: Counts(*map(int, numbers.split("/"))) for name, numbers in entries}


_VISA_PCB = "pcb1 904/0/100/100; pcb2 901/0/100/100; pcb3 905/0/101/100; pcb4 904/0/101/100"

_MVTEC = _counts(
    "bottle 209/0/20/63; cable 224/0/58/92; capsule 219/0/23/109; carpet 280/0/28/89;"
    "grid 264/0/21/57; hazelnut 391/0/40/70; leather 245/0/32/92; metal_nut 220/0/22/93;"
    "pill 267/0/26/141; screw 320/0/41/119; tile 230/0/33/84; toothbrush 60/0/12/30;"
    "transistor 213/0/60/40; wood 247/0/19/60; zipper 240/0/32/119"
)
TEXTURES = ("carpet", "grid", "leather", "tile", "wood")  # MVTec AD's
_LOCO = _counts(
    "breakfast_box 351/62/102/173; juice_bottle 335/54/94/236; pushpins 372/69/138/172;"
    "screw_bag 360/60/122/219; splicing_connectors 360/60/119/193"
)
_AD2 = _counts(
    "can 412/46/72/90; fabric 387/43/66/90; fruit_jelly 263/37/20/60; rice 313/35/42/90;"
    "sheet_metal 137/19/24/90; vial 291/41/35/105; wallplugs 293/33/60/90; walnuts 432/48/60/90"
)
_VISA = _counts(
    "candle 900/0/100/100; capsules 542/0/60/100; cashew 450/0/50/100; chewinggum 453/0/50/100;"
    "fryum 450/0/50/100; macaroni1 900/0/100/100; macaroni2 900/0/100/100;"
    f"{_VISA_PCB}; pipe_fryum 450/0/50/100"
)
_MPDD = _counts(
    "bracket_black 289/0/32/47; bracket_brown 185/0/26/51; bracket_white 110/0/30/30;"
    "connector 128/0/30/14; metal_plate 54/0/26/71; tubes 122/0/32/69"
)
_BTAD = _counts("01 400/0/21/49; 02 399/0/30/200; 03 1000/0/400/41")
_PCB_BANK = _counts(f"{_VISA_PCB}; pcb5 200/0/293/445; pcb6 200/0/174/274; pcb7 200/0/186/79")

_GLASS_PAGE = "https://github.com/cqylunlun/GLASS (shared drive)"
_MVTEC_PAGE = "https://www.mvtec.com/company/research/datasets"

CATALOGUE: dict[str, KnownDataset] = {
    known.name: known
    for known in (
        KnownDataset(
            name="mvtec",
            licence=NC,
            page=f"{_MVTEC_PAGE}/mvtec-ad",
            totals=Counts(3629, 0, 467, 1258),
            archive="mvtec_anomaly_detection.tar.xz",
            sha256="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            counts=_MVTEC,
        ),
        KnownDataset(
            name="mvtec_loco",
            licence=NC,
            page=f"{_MVTEC_PAGE}/mvtec-loco",
            totals=Counts(1778, 305, 575, 993),
            archive="mvtec_loco_anomaly_detection.tar.xz",
            sha256="9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687",
            counts=_LOCO,
            note="the paper prints 1772 training and 304 validation images; the archive has more",
        ),
        KnownDataset(
            name="mvtec_ad2",
            licence=NC,
            page=f"{_MVTEC_PAGE}/mvtec-ad-2",
            totals=Counts(2528, 302, 379, 705),
            archive="mvtec_ad_2.tar.gz",
            sha256="c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4",
            counts=_AD2,
            note="counts of the public test set; 2045 private and 2045 private mixed images more",
        ),
        KnownDataset(
            name="visa",
            licence="CC BY 4.0",
            page="https://github.com/amazon-science/spot-diff",
            totals=Counts(8659, 0, 962, 1200),
            archive="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
            sha256="2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
            counts=_VISA,
        ),
        KnownDataset(
            name="mpdd",
            licence=NC,
            page="https://github.com/stepanje/MPDD (shared folder)",
            totals=Counts(888, 0, 176, 282),
            counts=_MPDD,
        ),
        KnownDataset(
            name="btad",
            licence=NC,
            page="https://avires.dimi.uniud.it",
            totals=Counts(1799, 0, 451, 290),
            archive="https://avires.dimi.uniud.it/papers/btad/btad.zip",
            sha256="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
            counts=_BTAD,
            note="91 % of 03's test images are normal: AP and F1 do not compare across categories",
        ),
        KnownDataset(
            name="wfdd",
            licence="MIT by its repository; pink_flower comes from another set with own terms",
            page=_GLASS_PAGE,
            totals=Counts(3657, 0, 203, 241),
            uncounted=("grey_cloth", "grid_cloth", "pink_flower", "yellow_cloth"),
        ),
        KnownDataset(
            name="mad_man",
            licence="derived from MVTec AD: treat as non-commercial",
            page=_GLASS_PAGE,
            totals=Counts(0, 0, 150, 450),
            uncounted=tuple(_MVTEC),
            note="picked from MVTec's test images: what was tuned on mvtec was tuned on these",
        ),
        KnownDataset(
            name="mad_sys",
            licence="derived from MVTec AD: treat as non-commercial",
            page=_GLASS_PAGE,
            totals=Counts(0, 0, 1600, 4730),
            uncounted=TEXTURES,
            note="backgrounds are MVTec training images: measures memory of them as well; the "
            "totals count five transparencies, four (1280/3784) are read by default",
        ),
        KnownDataset(
            name="pcb_bank",
            licence="CC BY 4.0 by its repository; parts are non-commercial: treat as such",
            page="https://github.com/SSRheart/PCB-Bank (shared drive; parts by e-mail)",
            totals=Counts(4214, 0, 1055, 1198),
            counts=_PCB_BANK,
            note="pcb1 to pcb4 are visa's: means over both sets count them twice",
        ),
        KnownDataset(
            name="dtd",
            licence="research use, no standard licence",
            page="https://www.robots.ox.ac.uk/~vgg/data/dtd",
            archive="https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            note="47 textures of 120 images each; a source of textures, not a data set to test on",
        ),
    )
}


def data_folder() -> Path:
    """Return the folder that holds one folder per data set: ``ADBENCH_DATA``, else ``data``."""
    return Path(os.environ.get("ADBENCH_DATA") or "data").expanduser().absolute()


def dataset_root(
    name: str, *, layout: str, root: str | None = None, folder: str | None = None
) -> Path:
    """Return the absolute folder of a data set.

    Args:
        name: the data set's name, for its page and for messages.
        layout: its layout; ``demo`` needs no folder, it makes one below the cache folder, and
            ``folder`` starts from the current one.
        root: ``dataset.root``; replaces everything else. A file for layout ``csv``.
        folder: name below ``data_folder()`` where ``root`` is not given.

    Raises:
        UserError: it is not there; says where it was looked for and where it can be had.
    """
    if layout == "demo":
        return Path(root).expanduser().absolute() if root else default_cache_folder() / "demo"
    if layout == "folder" and root is None:
        return Path.cwd()
    if layout == "pictures" and root is None:
        raise UserError("pictures of which folder? set dataset.root=FOLDER")
    found = Path(root).expanduser().absolute() if root else data_folder() / (folder or name)
    if not is_harmless_name(str(found)):
        raise UserError(f"{shown_path(found)} (escaped): no UTF-8 or control characters; rename it")
    if found.is_dir() or (layout == "csv" and found.is_file()):
        return found
    raise UserError(f"{_missing(name, found, given=root is not None)}{_remedy(name)}")


def _missing(name: str, found: Path, *, given: bool) -> str:
    where = (
        "dataset.root" if given else "ADBENCH_DATA" if os.environ.get("ADBENCH_DATA") else "./data"
    )
    state = "is a file, not a folder" if found.is_file() else "does not exist"
    beside = found.parent
    there = [entry.name for entry in beside.iterdir() if entry.is_dir()] if beside.is_dir() else []
    return f"data set {name}: {found} (from {where}) {state}{nearest(found.name, there)}"


def _remedy(name: str) -> str:
    known = CATALOGUE.get(name)
    page = f"; it can be had at {known.page}" if known else ""
    return f"; set dataset.root=FOLDER or ADBENCH_DATA{page}"
