"""Runs checks one by one and tells what came of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from adbench.conformance.subject import DoesNotApply


class Answer(NamedTuple):
    """What came of one check.

    Attributes:
        check: its name as a sentence.
        verdict: ``ok``, ``FAILED`` or ``-`` where it does not apply.
        told: what is wrong, or why it does not apply.
    """

    check: str
    verdict: Literal["ok", "FAILED", "-"]
    told: str
    seconds: float


def answers(checks: Sequence[Callable[[Any], None]], subject: Any) -> Iterator[Answer]:
    """Yield the answer of each check as it comes; a fault of the method is an answer too."""
    for check in checks:
        start = time.perf_counter()
        name = " ".join((check.__doc__ or check.__name__).split())
        verdict: Literal["ok", "FAILED", "-"] = "ok"
        told = ""
        try:
            check(subject)
        except DoesNotApply as reason:
            verdict, told = "-", str(reason)
        except AssertionError as error:
            verdict, told = "FAILED", _line(error)
        except Exception as error:  # whatever somebody else's code raises
            verdict, told = "FAILED", f"{type(error).__name__}: {_line(error)}"
        yield Answer(name, verdict, told, time.perf_counter() - start)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
