"""conf/VERB.yaml and the verb's record say the same; every key refuses what it cannot mean."""

from __future__ import annotations

import pytest
import yaml

from adbench.config.locate import conf_folder
from adbench.config.plain import plain_keys
from adbench.config.typed import declared
from adbench.deploy.settings import BenchmarkKeys, ExportKeys, PredictKeys, ServeKeys
from adbench.errors import UserError
from tests.config.walk import NEVER, VALUES

VERBS = {
    "predict": (PredictKeys, ["run=x", "source=x"]),
    "export": (ExportKeys, ["run=x"]),
    "benchmark": (BenchmarkKeys, ["run=x"]),
    "serve": (ServeKeys, ["run=x"]),
}


def defaults(verb):
    return yaml.safe_load((conf_folder() / f"{verb}.yaml").read_text())


@pytest.mark.parametrize("verb", VERBS)
def test_the_file_holds_every_key_with_its_default_and_meaning(verb):
    kind, needed = VERBS[verb]
    found = defaults(verb)
    assert list(found) == list(declared(kind)[0])
    made = plain_keys(kind, needed, verb)
    for key, value in found.items():
        own = getattr(made, key)
        if not any(word.startswith(f"{key}=") for word in needed):
            assert value == (list(own) if isinstance(own, tuple) else own), key
    lines = (conf_folder() / f"{verb}.yaml").read_text().splitlines()[1:]
    assert all(" # " in line for line in lines)


def refusal(kind, words, verb):
    try:
        plain_keys(kind, words, verb)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_refuses_in_one_line_that_names_it(verb):
    kind, needed = VERBS[verb]
    refused = 0
    for key, default in defaults(verb).items():
        for value in VALUES:
            told = refusal(kind, [*needed, f"{key}={value}"], verb)
            refused += told is not None
            assert told is None or "\n" not in told
            never = NEVER.get(type(default), ())
            assert told is not None or value not in never, f"{verb} {key}={value}"
        with pytest.raises(UserError, match=f"{key}q"):
            plain_keys(kind, [*needed, f"{key}q=1"], verb)
    assert refused > 40
