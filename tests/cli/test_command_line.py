"""The command line itself: speed, help, errors, completion, README, surface."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adbench.cli.arguments import parsed_arguments
from adbench.cli.completion import completions
from adbench.cli.console import text_table
from adbench.cli.main import VERBS, main
from adbench.cli.sweep import by_category
from adbench.cli.test import differing
from adbench.config.compose import compose_config, parse_overrides
from adbench.config.locate import GROUPS, options
from adbench.config.schema import SearchKeys
from adbench.config.typed import from_mapping
from adbench.errors import UserError
from adbench.sweeps.grid import Cell, grid, split_overrides
from adbench.sweeps.search import word_of

REPOSITORY = Path(__file__).parents[2]


def run(*words, code="import sys; from adbench.cli.main import main; sys.exit(main())"):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


def test_help_answers_at_once():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert run("--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1.0


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from adbench.cli.main import main; main(['--help'])\n"
        "heavy = {'torch', 'hydra', 'numpy', 'lightning', 'cv2', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert run(code=code).returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"adbench {verb}" in capsys.readouterr().out


def test_help_names_groups_and_their_options(capsys):
    main(["train", "--help"])
    text = capsys.readouterr().out
    for group in GROUPS:
        assert group in text
    assert "glass" in text
    assert "dataset.root=" in text


def test_a_misspelt_verb_is_one_line_and_exit_2(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err.strip() == (
        f"adbench: no verb 'trian'; did you mean 'train'? (known: {', '.join(VERBS)})"
    )


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"adbench \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_completion():
    assert "train" in completions("adbench t")
    assert "model=glass" in completions("adbench train model=g")
    assert "dataset.root=" in completions("adbench train dataset.r")
    assert completions("adbench data ") == ["check", "list"]
    for shell in ("bash", "zsh", "fish"):
        assert "adbench completion --" in run("completion", shell).stdout


def test_flags_are_told_from_overrides(tmp_path):
    found = parsed_arguments(["a=1", "--config-dir", str(tmp_path), "-m"])
    assert found.overrides == ["a=1"]
    assert found.multirun
    assert found.forwarded() == ["--config-dir", str(tmp_path)]
    with pytest.raises(UserError, match="did you mean '--multirun'"):
        parsed_arguments(["--multrun"])


def test_a_grid_is_every_combination():
    fixed, swept = split_overrides(parse_overrides(["a=1", "b=1,2", "c=x,y,z", "l=[1,2]"]))
    assert fixed == ["a=1", "l=[1,2]"]
    cells = grid(fixed, swept)
    assert len(cells) == 6
    assert cells[0].overrides == ("a=1", "l=[1,2]", "b=1", "c=x")
    assert cells[-1].values == {"b": "2", "c": "z"}
    assert len(grid([], split_overrides(parse_overrides(["s=range(0,4)"]))[1])) == 4


def test_rows_of_a_table_are_combined_with_the_grid():
    cells = grid(["a=1"], {"seed": ["0", "1"]}, {"LAS": ["b=2", "c=3"], "all": []})
    assert [cell.values for cell in cells] == [
        {"row": row, "seed": seed} for row in ("LAS", "all") for seed in ("0", "1")
    ]
    assert cells[1].overrides == ("a=1", "b=2", "c=3", "seed=1")
    assert cells[2].overrides == ("a=1", "seed=0")


def test_all_categories_of_several_data_sets_become_cells(tmp_path):
    words = ["dataset=demo", "dataset.category=all", "dataset.options.train=2"]
    words += [f"dataset.root={tmp_path}", "seed=0"]
    several = Cell((*words, "dataset.options.seed=1"), {"dataset.options.seed": "1"})
    known = {}
    cells = by_category(several, None, known)
    assert [cell.values["dataset.category"] for cell in cells] == ["box", "metal", "weave"]
    assert all(cell.overrides[-1].startswith("dataset.category=") for cell in cells)
    assert all("dataset.category=all" not in cell.overrides for cell in cells)
    one = Cell(("dataset=demo", "dataset.category=box"), {})
    assert by_category(one, None, known) == [one]
    assert len(known) == 2


@pytest.mark.parametrize("name", options("sweep"))
def test_every_stored_row_composes(name):
    model = name.split("_")[0] if name.split("_")[0] in options("model") else "glass"
    sweep = compose_config("sweep", [f"sweep={name}"])["sweep"]
    rows = sweep["rows"]
    if sweep["search"] is not None:  # a space per model instead; its ends are rows that compose
        for each, space in from_mapping(SearchKeys, sweep["search"], "sweep.search").spaces.items():
            for place in (0, -1):
                words = [f"{key}={word_of(keys.ends[place])}" for key, keys in space.items()]
                compose_config("train", [f"model={each}", *words])
        return
    assert len(rows) > 1
    for overrides in rows.values():
        compose_config("train", [f"model={model}", *overrides])


def test_differences_between_metrics_are_named():
    stored = {"image": {"auroc": 1.0}, "seconds": {"a": 1}, "epoch": 3}
    assert differing(stored, {"image": {"auroc": 1.0}, "seconds": {}, "epoch": 3}) == []
    assert differing(stored, {"image": {"auroc": 0.9}, "epoch": 3}) == ["image.auroc"]


def test_tables_are_aligned():
    text = text_table("t", ["name", "x"], [["a", "1"], ["long", "10"]])
    assert text.splitlines()[1:] == ["name   x", "----  --", "a      1", "long  10"]


def readme_commands():
    text = (REPOSITORY / "README.md").read_text().replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.S)
    lines = [line.split("#")[0].split() for block in blocks for line in block.splitlines()]
    return [words for words in lines if words[:2] == ["adbench", "train"]]


def test_the_commands_of_the_readme_compose():
    commands = readme_commands()
    assert commands
    for words in commands:
        assert compose_config("train", words[2:])["model"]["_target_"]


def test_the_readme_names_verbs_and_options_that_exist():
    text = (REPOSITORY / "README.md").read_text()
    for verb in re.findall(r"`adbench ([a-z]+)", text):
        assert verb in VERBS, verb
    for group in ("model", "dataset", "synthesis", "backbone", "hardware"):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{group}`"))
        for name in re.findall(r"[a-z0-9_]+", row.split("|")[2].split("(")[0]):
            assert name in options(group), name
