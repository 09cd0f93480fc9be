"""JSON files of results that several calls fill, the later ones adding to what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def store(file: Path, document: dict[str, Any], key: Sequence[str]) -> None:
    """Write ``document``; rows of an earlier call stay unless one of the same key is new.

    Args:
        file: written, with its folder.
        document: ``rows``, ``command`` and what else the pages show.
        key: columns of a row that say which cell it is.
    """
    if file.is_file():
        earlier = json.loads(file.read_text())
        document = {**document, "rows": joined(earlier["rows"], document["rows"], key)}
        commands = dict.fromkeys([*earlier["command"].split("\n"), document["command"]])
        document["command"] = "\n".join(commands)
        for name in ("speed", "categories"):
            if isinstance(earlier.get(name), dict):
                document[name] = {**earlier[name], **document[name]}
            elif name in earlier:
                document[name] = list(dict.fromkeys([*earlier[name], *document[name]]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=1) + "\n")


def joined(
    earlier: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], key: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the rows of both, a new one in the place of the earlier one of its cell."""
    rows = {tuple(row[name] for name in key): row for row in [*earlier, *new]}
    return list(rows.values())
