"""The contract in force: what every method and every synthesizer keeps, as checks.

`adbench test-method TARGET` runs them on anybody's method; tests/conformance on all of adbench's.
"""

from adbench.conformance.checks import CHECKS
from adbench.conformance.subject import DoesNotApply, Subject, tiny_data
from adbench.conformance.suite import Answer, answers
from adbench.conformance.synthesizers import SYNTHESIS_CHECKS

__all__ = [
    "CHECKS",
    "SYNTHESIS_CHECKS",
    "Answer",
    "DoesNotApply",
    "Subject",
    "answers",
    "tiny_data",
]
