"""What README shows of Python and of the schema is what happens."""

from __future__ import annotations

import json
import re
import shlex

import adbench
from adbench.cli.main import VERBS
from adbench.config.plain import plain_keys
from tests.deploy.test_keys import VERBS as RECORDS
from tests.e2e.verbs import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
OWN = (REPOSITORY / "adbench/deploy/README.md").read_text()


def test_the_three_lines_of_python_run(run, monkeypatch, capsys):
    folder, data = run
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(code.strip().splitlines()) == 3
    code = re.sub(r'"outputs/[^"]+"', repr(str(folder)), code)
    code = code.replace('"part.png"', repr(str(data / "nut/test/spot/000.png")))
    exec(code, {"adbench": adbench})
    assert capsys.readouterr().out == "True torch.Size([1, 1, 24, 24])\n"


def test_every_command_of_these_verbs_names_keys_that_exist():
    found = 0
    for text in (README, OWN):
        for line in re.findall(r"adbench (?:predict|export|benchmark|serve)[^`\n#|]*", text):
            _, verb, *words = shlex.split(line)
            assert verb in VERBS
            words = [word for word in words if "=" in word and not word.endswith("=")]
            named = {word.partition("=")[0] for word in words}
            needed = [w for w in RECORDS[verb][1] if w.partition("=")[0] not in named]
            if named & {"model", "check", "compare", "calibrate"}:
                needed = [w for w in needed if not w.startswith("run=")]
            if words:
                plain_keys(RECORDS[verb][0], [*words, *needed], verb)
                found += 1
    assert found >= 8


def test_the_schema_told_is_the_schema_written(run, here):
    folder, data = run
    source = f"source={data}/nut/test/spot/000.png"
    line = here("predict", f"run={folder}", source, "stdout=true", check=0).out
    (told,) = re.findall(r"```json\n(.*?)```", OWN, flags=re.DOTALL)
    written, shown = json.loads(line), json.loads(told)
    assert written.keys() == shown.keys()
    assert written["regions"][0].keys() == shown["regions"][0].keys()
    assert written["milliseconds"].keys() == shown["milliseconds"].keys()
