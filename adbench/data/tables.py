"""Tables of text as spreadsheets write them: which separator, which encoding, which line."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adbench.data.files import check_regular, is_harmless_name, shown_path
from adbench.errors import UserError, nearest

SEPARATORS = (",", ";", "\t")
_LARGEST = 1 << 30  # bytes
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        cells: by column name, stripped of blanks; a missing cell is empty.
        where: file and line, as an editor counts lines, for messages.
    """

    cells: Mapping[str, str]
    where: str


def read_table(path: Path, needed: Sequence[str], known: Sequence[str] = ()) -> list[Row]:
    """Return the rows of a table with a header; empty rows are passed over.

    Cells are separated by commas, semicolons or tabs, whichever the header has (the one that
    makes most of the known columns). Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark;
    what is no UTF-8 is taken for Windows-1252, of which Latin-1's letters are a part. Names of
    known columns are recognised without regard to case.

    Args:
        needed: columns that must be there.
        known: further columns with a meaning.

    Raises:
        UserError: no regular file, an encoding that is none of these, control characters, a
            missing or doubled column, a row with too many cells, quotes that are never closed.
    """
    lines = _decoded(path)
    separator = _separator(lines, [*needed, *known])
    reader = csv.reader(io.StringIO(lines, newline=""), delimiter=separator, strict=True)
    rows = _records(reader, path)
    header = _header(rows, path, [*needed, *known])
    for name in needed:
        if name not in header:
            found = ", ".join(header)[:200]
            raise UserError(
                f"{shown_path(path)} has no column '{name}'{nearest(name, header)} (found: {found})"
            )
    return [_row(line, cells, header, path) for line, cells in rows]


def _decoded(path: Path) -> str:
    size = check_regular(path, "table").st_size
    if size > _LARGEST:
        raise UserError(f"{shown_path(path)} has {size} bytes: that is no list of pictures")
    data = path.read_bytes()
    mark = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    for encoding in (mark,) if mark else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        _check_printable(text, path)
        # a spreadsheet's hint in the first line, emptied so that lines keep their numbers
        return "\n" + text.partition("\n")[2] if text.lower().startswith("sep=") else text
    raise UserError(
        f"{shown_path(path)}: its encoding is not known; save it as UTF-8 (in a spreadsheet: "
        "'CSV UTF-8')"
    )


def _check_printable(text: str, path: Path) -> None:
    """Refuse control characters that would reach the terminal in a message or a name."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if not is_harmless_name(line.rstrip("\n").replace("\t", " ")):
            raise UserError(f"{shown_path(path)}, line {number}: holds control characters")


def _separator(text: str, names: Sequence[str]) -> str:
    head = text.lstrip("\r\n").partition("\n")[0]

    def found(separator: str) -> tuple[int, int]:
        columns = [part.strip().strip('"').casefold() for part in head.split(separator)]
        return len({*columns} & {*names}), len(columns)

    return max(SEPARATORS, key=found)


def _records(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every row that holds anything."""
    while True:
        line = reader.line_num + 1  # type: ignore[attr-defined]
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{shown_path(path)}, line {line}: {error}") from error
        if any(cell.strip() for cell in cells):
            yield line, [cell.strip() for cell in cells]


def _header(rows: Iterator[tuple[int, list[str]]], path: Path, names: Sequence[str]) -> list[str]:
    _, cells = next(rows, (1, []))
    header = [cell.casefold() if cell.casefold() in names else cell for cell in cells]
    doubled = [name for name in header if name and header.count(name) > 1]
    if doubled:
        raise UserError(f"{shown_path(path)} has two columns '{doubled[0]}'")
    return header


def _row(line: int, cells: list[str], header: Sequence[str], path: Path) -> Row:
    where = f"{shown_path(path)}, line {line}"
    if any(cells[len(header) :]):
        raise UserError(
            f"{where}: {len(cells)} cells, but {len(header)} columns; is a cell with a separator "
            "in it not quoted?"
        )
    padded = [*cells, *[""] * (len(header) - len(cells))]
    return Row({name: cell for name, cell in zip(header, padded, strict=False) if name}, where)
