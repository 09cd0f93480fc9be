"""Tables as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; nothing in a cell can end it or become markup."""
    lines = ["| " + " | ".join(map(_markdown, header)) + " |"]
    lines.append("|---" * min(1, len(header)) + "|---:" * (len(header) - 1) + "|")
    lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _markdown(text: str) -> str:
    plain = " ".join(text.split())
    return re.sub(r"([\\|`<>\[\]_])", r"\\\1", plain)


def csv_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return CSV; a cell that a spreadsheet would take for a formula is set in quotes of text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[_csv(cell) for cell in row] for row in rows])
    return out.getvalue()


def _csv(text: str) -> str:
    number = re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t") and not number else text


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
}


def latex_table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a LaTeX table for the package booktabs."""
    columns = "l" + "r" * (len(header) - 1)
    body = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(_latex, header)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex(text: str) -> str:
    plain = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return "".join(_LATEX.get(c, c) for c in plain)
