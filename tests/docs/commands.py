"""Collects what the pages tell a person to type, with the blanks filled in."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.e2e.verbs import REPOSITORY

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
GENERATED = {"keys.md"}
# what a person fills in -> what a test has; longest first
BLANKS = {
    "NEW_PICTURES": "parts/good",
    "PICTURES": "parts/good",
    "FOLDER": "RUN",
    "DROP": "parts/good",
}


class Command(NamedTuple):
    """One command of a page: its verb, and its words with blanks filled in."""

    page: str
    verb: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: adbench {self.verb} {' '.join(self.words)}"


def commands() -> list[Command]:
    """Return every complete command of every fenced block, each once a page."""
    found = []
    for page in PAGES:
        if page.name in GENERATED:
            continue
        name = str(page.relative_to(REPOSITORY))
        for block in re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                text = line.split("  #")[0].strip()
                if text.startswith("adbench ") and "..." not in text:
                    _, verb, *words = shlex.split(text)
                    found.append(Command(name, verb, tuple(_filled(word) for word in words)))
    return list(dict.fromkeys(found))


def _filled(word: str) -> str:
    key, sign, value = word.partition("=")
    return f"{key}{sign}{BLANKS.get(value, value)}" if sign else BLANKS.get(word, word)


def config_dir(words: tuple[str, ...]) -> tuple[list[str], Path | None]:
    """Return the words without ``--config-dir conf``, and docs/example/conf where it stood."""
    own = list(words)
    if "--config-dir" not in own:
        return own, None
    at = own.index("--config-dir")
    del own[at : at + 2]
    return own, REPOSITORY / "docs" / "example" / "conf"
