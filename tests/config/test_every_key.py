"""The walk over all keys: none ends in a traceback, none takes what it cannot mean."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.config import walk


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_key_refuses_what_it_cannot_mean_in_one_line_that_names_it():
    configs: dict[tuple[str, ...], dict] = {choices: config for choices, config, _ in walk.bases()}
    counts: Counter[str] = Counter()
    wrong = []
    for case in walk.cases():
        try:
            told = walk.answer(case, configs[case.choices])
        except Exception as error:
            wrong.append(f"{case.choices} {case.word}: {type(error).__name__}: {error}")
            continue
        counts["accepted" if told is None else "refused"] += 1
        if told is None and (case.must_be_refused or case.key.endswith("q")):
            wrong.append(f"{case.choices} {case.word}: taken silently (default {case.default!r})")
        if told is not None and ("\n" in told or not walk.names_culprit(case, told)):
            wrong.append(f"{case.choices} {case.word}: {told}")
    assert counts["refused"] > 3000
    assert counts["accepted"] > 300
    assert not wrong, f"{len(wrong)} of {sum(counts.values())}\n" + "\n".join(wrong[:40])
