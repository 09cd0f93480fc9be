"""Files of results that several calls fill: nothing measured is lost, nothing is kept twice."""

from __future__ import annotations

import json

from benchmarks.stored import store


def document(seed, image, command):
    row = {"preset": "a", "category": "nut", "seed": seed, "image": image}
    return {"rows": [row], "command": command, "speed": {str(seed): 1}, "categories": ["nut"]}


def test_a_later_call_adds_its_rows_and_replaces_those_of_its_own_cells(tmp_path):
    file, key = tmp_path / "deep" / "results.json", ("preset", "category", "seed")
    for seed, image, command in ((0, 0.5, "x"), (1, 0.6, "y"), (0, 0.7, "y")):
        store(file, document(seed, image, command), key)
    found = json.loads(file.read_text())
    assert [(row["seed"], row["image"]) for row in found["rows"]] == [(0, 0.7), (1, 0.6)]
    assert found["command"] == "x\ny"
    assert found["speed"] == {"0": 1, "1": 1}
    assert found["categories"] == ["nut"]
