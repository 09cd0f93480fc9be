"""Files before they are opened: regular ones only, by names that can be shown and written."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from adbench.errors import UserError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return ``path`` as text that any terminal and any file can hold.

    Bytes that are no UTF-8 and control characters are written as escapes: ``b\\xfcrste.png``.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if _harmless(c) else c.encode("unicode_escape").decode() for c in text)


def _harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def is_harmless_name(name: str) -> bool:
    """Whether a file's name is UTF-8 without control characters."""
    return name.isprintable() or all(map(_harmless, name))


def check_names(names: Sequence[str], folder: Path) -> None:
    """Refuse names that could neither be printed nor written into a table.

    Raises:
        UserError: a name is no UTF-8 or holds control characters; tells count and three of them.
    """
    bad = sorted(shown_path(name) for name in names if not is_harmless_name(name))
    if bad:
        more = "" if len(bad) <= 3 else ", ..."
        raise UserError(
            f"{len(bad)} names in {shown_path(folder)} are no UTF-8 or hold control characters: "
            f"{', '.join(bad[:3])}{more} (escaped here); rename them"
        )


def check_regular(path: Path, what: str = "image") -> os.stat_result:
    """Return the status of a regular file, links followed; nothing is opened.

    Args:
        what: the file should be, for the message.

    Raises:
        UserError: it does not exist, is a link to nothing, or is no regular file: reading a named
            pipe or a device could wait for ever.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        state = "is a link to nothing" if os.path.islink(path) else "does not exist"
        raise UserError(f"{what} file {shown_path(path)} {state}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {what} {shown_path(path)}: {error}") from None
    for test, kind in _KINDS:
        if test(found.st_mode):
            raise UserError(
                f"cannot read {what} {shown_path(path)}: it is {kind}, not a regular file; "
                "replace or remove it"
            )
    return found


def is_running(pid: int) -> bool:
    """Whether a process of this number lives on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # not ours, or no number of a process
        return True
    return True
