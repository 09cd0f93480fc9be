"""Writes what documentation must not say by hand: keys, verbs, licences, measurements.

    python -m docs.generate            # rewrites the pages
    python -m docs.generate --check    # exits with 1 where a page is not current

Sources: conf/ and the verbs' help for docs/keys.md, `adbench info licences` for docs/licences.md,
docs/measured/learning_curve.json for the table and the picture of docs/pictures.md,
docs/measured/presets.json for docs/presets.md and the table of docs/which.md.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from adbench.cli.licences import tables
from adbench.cli.main import VERBS, usage
from adbench.config.locate import GROUPS, conf_folder, nested_options, options
from docs.curve_picture import curve_picture

DOCS = Path(__file__).parent
CURVE = DOCS / "measured" / "learning_curve.json"
PRESETS = DOCS / "measured" / "presets.json"
PICTURE = DOCS / "learning_curve.svg"


def pages() -> dict[Path, str]:
    """Return what each generated file should hold."""
    found = {DOCS / "keys.md": keys_page(), DOCS / "licences.md": licences_page()}
    if CURVE.is_file():
        document = json.loads(CURVE.read_text("utf-8"))
        found[DOCS / "pictures.md"] = with_curve(
            (DOCS / "pictures.md").read_text("utf-8"), document
        )
        found[PICTURE] = curve_picture(document["rows"], _benchmark("learning_curve").in_order)
    if PRESETS.is_file():
        document = json.loads(PRESETS.read_text("utf-8"))
        made = _benchmark("presets_page")
        found[DOCS / "presets.md"] = made.page(document)
        told = f"{document['date']}, {document['machine']}; {_commands(document)}."
        found[DOCS / "which.md"] = between(
            (DOCS / "which.md").read_text("utf-8"), "presets", made.choice_table(document), told
        )
    return found


def _commands(document: dict[str, Any]) -> str:
    """Return the calls that filled a file of results, as the pages show them."""
    return "; ".join(f"`{line}`" for line in document["command"].split("\n"))


def _benchmark(name: str) -> Any:
    sys.path.insert(0, str(DOCS.parent / "benchmarks"))
    return importlib.import_module(name)


def between(page: str, what: str, *parts: str) -> str:
    """Return the page with ``parts`` between the marks of ``what``."""
    begin = f"<!-- {what}: begin (python -m docs.generate) -->"
    end = f"<!-- {what}: end -->"
    made = "\n\n".join([begin, *parts, end])
    return re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: made, page, flags=re.DOTALL)


def keys_page() -> str:
    """Return docs/keys.md: help of every verb, every file of every group with its comments."""
    lines = [
        "# Keys and verbs",
        "",
        "Generated from the verbs' help and from `conf/` by `python -m docs.generate`; a test",
        "checks that it is current. Overrides are written `group=name` and `key.of.key=value`.",
        "",
        "## Verbs",
        "",
        *_fence("text", usage()),
    ]
    for verb, (module, _) in VERBS.items():
        found = importlib.import_module(module)
        text = found.HELP if hasattr(found, "HELP") else found.usage()
        lines += [f"### adbench {verb}", "", *_fence("text", text)]
    lines += [
        "## Keys of a verb",
        "",
        "Defaults stand behind the colon, the comment says what is possible.",
        "",
    ]
    for path in sorted(conf_folder().glob("*.yaml")):
        lines += [f"### conf/{path.name}", "", *_fence("yaml", path.read_text("utf-8"))]
    lines += ["## Groups", ""]
    for group in (*GROUPS, "sweep"):
        names = [*options(group), *nested_options(group)]
        lines += [f"### {group}=", "", f"{len(names)} choices: {', '.join(names)}", ""]
        if group in ("experiment", "sweep"):
            lines += ["| choice | what |", "|---|---|", *_first_lines(group, names), ""]
            continue
        for name in names:
            text = (conf_folder() / group / f"{name}.yaml").read_text("utf-8")
            lines += [f"#### {group}={name}", "", *_fence("yaml", text)]
    return "\n".join(lines).rstrip() + "\n"


def _fence(kind: str, text: str) -> list[str]:
    return [f"```{kind}", text.strip("\n"), "```", ""]


def _first_lines(group: str, names: Sequence[str]) -> Iterator[str]:
    """Yield a row a preset: the comment at its head."""
    for name in names:
        said = []
        for line in (conf_folder() / group / f"{name}.yaml").read_text("utf-8").splitlines():
            if not line.startswith("#"):
                break
            if not line.startswith("# @package"):
                said.append(line.lstrip("# "))
        yield f"| `{name}` | {' '.join(said).replace('|', chr(92) + '|')} |"


def licences_page() -> str:
    """Return docs/licences.md."""
    lines = [
        "# Licences",
        "",
        "Generated from what `adbench info licences` prints, without the packages, whose versions",
        "differ between machines. This is no legal advice.",
        "",
    ]
    for title, header, rows in tables(installed=False):
        lines += [f"## {title[0].upper()}{title[1:]}", "", *_table(header, rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return [
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *[f"| {row} |" for row in body],
    ]


def with_curve(page: str, document: dict[str, Any]) -> str:
    """Return the page with table and picture of the learning curve between its marks."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return between(
        page,
        "learning curve",
        _benchmark("learning_curve").table(document["rows"]).strip(),
        f"{document['date']}, {document['machine']}, {versions}; {_commands(document)}.",
        "![image AUROC over the number of good pictures](learning_curve.svg)",
    )


def main(words: Sequence[str]) -> int:
    """Write the pages, or tell which are not current."""
    old = [
        path
        for path, text in pages().items()
        if not path.is_file() or path.read_text("utf-8") != text
    ]
    if "--check" in words:
        for path in old:
            print(f"{path.relative_to(DOCS.parent)} is not current: python -m docs.generate")
        return 1 if old else 0
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
