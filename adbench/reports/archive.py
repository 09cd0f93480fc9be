"""A table's figures with what they rest on, in one file for a paper's supplement."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from adbench.errors import UserError
from adbench.runs.files import confined, write_beside

_RECORDS = ("config.yaml", "run.json", "metrics.json", "predictions.csv", "history.csv")
_CODE = ("*.py", "*.yaml", "*.html", "*.css", "*.js", "*.md")


def write_archive(path: Path, table: Path, runs: Sequence[Path]) -> None:
    """Write result.json and result.md of a table, its runs' records, and adbench's own code.

    No picture and no weights: data sets and networks keep their own licences.

    Args:
        table: folder with the results.
    """
    from adbench.config.locate import conf_folder

    package = Path(__file__).parents[1]
    with (
        write_beside(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for name in ("result.json", "result.md"):
            out.write(table / name, name)
        for folder in dict.fromkeys(runs):
            place = "/".join(["runs", *folder.parts[-4:]])
            for name in _RECORDS:
                _add(out, folder, name, f"{place}/{name}")
        for base, inside in ((package, "code/adbench"), (conf_folder(), "code/conf")):
            for file in sorted(found for kind in _CODE for found in base.rglob(kind)):
                out.write(file, f"{inside}/{file.relative_to(base).as_posix()}")


def _add(out: zipfile.ZipFile, folder: Path, name: str, inside: str) -> None:
    try:
        file = confined(folder, name)
    except UserError:  # a link that leads elsewhere is no record of the run
        return
    if file.is_file():
        out.write(file, inside)
