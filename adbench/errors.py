"""The one error that is the user's to mend, as against a fault of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A request that cannot be carried out: bad override, missing data, unreadable image.

    The message is one line: what is wrong, where, and the nearest right thing. The command
    line prints it on stderr and exits with code 2; the traceback goes to the run's log.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word closest to ``word``, else ``""``."""
    found = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
