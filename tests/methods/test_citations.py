"""Every equation, section and table that a method's room cites is what the paper numbers so.

The tables below are facts of the papers: number -> words, one of which stands near a citation.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

EQUATIONS = {
    "glass": {
        "1": ("ascent",),
        "2": ("projection", "clamp", "distance"),
        "3": ("mask",),
        "4": ("overlay", "composite"),
        "5": ("normal",),
        "6": ("gas", "global"),
        "7": ("focal", "local"),
        "8": ("ohem", "hard", "sum"),
        "9": ("map",),
    },
    "ulsad": {
        "1": ("local loss",),
        "2": ("l_v", "distance"),
        "3": ("self-attention", "attention of the features"),
        "4": ("cross-attention",),
        "5": ("global loss", "l_pg"),
        "6": ("local-global loss",),
        "7": ("local map",),
        "8": ("global map",),
        "9": ("quantile",),
        "10": ("score",),
    },
    "realnet": {
        "1": ("noise",),
        "2": ("strength", "sigma"),
        "3": ("blend", "opacity"),
        "4": ("afs", "selection", "synthetic", "mask"),
        "5": ("reconstruct", "whole one", "squared error"),
        "6": ("sum", "segmentation"),
    },
    "sdas": {
        "1": ("noise",),
        "2": ("strength", "sigma"),
        "S1": ("variance",),
        "S2": ("bound",),
    },
    "dfr": {},
}
SECTIONS = {
    "glass": {
        "3.1": ("aggregat", "feature extractor"),
        "3.2": ("global", "gas", "centre", "manifold", "hypersphere"),
        "3.3": ("local", "las"),
        "3.4": ("loss", "discriminator"),
        "3.5": ("score",),
        "4.1": ("data",),
        "4.2": ("text", "image", "radi", "rate", "batch"),
    },
    "ulsad": {
        "3.1": ("feature",),
        "3.2": ("reconstruct", "structural"),
        "3.3": ("attention", "logical"),
        "3.4": ("loss", "algorithm"),
        "3.5": ("map", "score"),
        "4.1": ("weight", "rate", "adam", "decay", "images", "epochs", "cosine", "gradient"),
    },
    "realnet": {
        "3.1": ("sdas", "synthesis", "blend"),
        "3.2": ("selection", "sources"),
        "3.3": ("residual", "rrs"),
        "3.4": ("pool", "strength"),
        "4.1": ("setting", "sources", "layer", "share", "batch", "images", "passes"),
    },
    "sdas": {"3.1": ("realnet", "sdas"), "3.4": ("pool", "strength", "algorithm")},
    "dfr": {},
}
TABLES = {
    "glass": {*"12345", *(f"S{n}" for n in range(1, 9))},
    "ulsad": {str(n) for n in range(1, 24)},
    "realnet": {"1", "2", "3", "4", "5", "5a", "5b", *(f"S{n}" for n in range(1, 7))},
    "sdas": {"5b", "S6"},
    "dfr": set(),
}


def rooms():
    for method in EQUATIONS:
        for path in sorted((ROOT / "adbench" / "methods" / method).iterdir()):
            if path.suffix in (".py", ".md"):
                yield method, path
        yield method, ROOT / "conf" / "model" / f"{method}.yaml"
        for folder in ("experiment", "sweep"):
            for path in sorted((ROOT / "conf" / folder).glob(f"{method}_*.yaml")):
                yield method, path


def around(text, match):
    """The citation's line and both neighbours, in lower case."""
    line = text[: match.start()].count("\n")
    return "\n".join(text.splitlines()[max(line - 1, 0) : line + 2]).lower()


def numbers(cited):
    return re.findall(r"S?\d+(?:\.\d+)?[ab]?", cited)


@pytest.mark.parametrize(
    ("pattern", "facts"),
    [
        (r"Eqs?\. (S?\d+(?:(?:, (?:and )?| and | to )S?\d+\b)*)", EQUATIONS),
        (r"(?:Sec\.|[Ss]ections?) (\d\.\d(?:(?:, | and )\d\.\d)*)", SECTIONS),
    ],
    ids=["equations", "sections"],
)
def test_what_is_cited_is_what_the_paper_says_there(pattern, facts):
    wrong, seen = [], 0
    for method, path in rooms():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(pattern, text):
            for number in numbers(match.group(1)):
                seen += 1
                words = facts[method].get(number)
                if words is None or not any(word in around(text, match) for word in words):
                    line = text[: match.start()].count("\n") + 1
                    wrong.append(f"{path.relative_to(ROOT)}:{line}: {match.group(0)} ({number})")
    assert not wrong, "\n".join(wrong)
    assert seen > 15


def test_cited_tables_exist():
    wrong = []
    for method, path in rooms():
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"[Tt]ables? (S?\d+[ab]?(?:(?:, | and )S?\d+[ab]?)*)", text):
            known = TABLES[method]
            wrong += [
                f"{path}: {match.group(0)}" for n in numbers(match.group(1)) if n not in known
            ]
    assert not wrong


@pytest.mark.parametrize("method", ["glass", "ulsad"])
def test_every_equation_has_a_place_in_the_room(method):
    text = "".join(p.read_text("utf-8") for m, p in rooms() if m == method and p.suffix == ".py")
    cited = {
        number for match in re.finditer(r"Eq\. (\d+)", text) for number in numbers(match.group(1))
    }
    elsewhere = {"glass": {"3", "4"}, "ulsad": set()}[method]  # synthesis/las.py
    assert cited == EQUATIONS[method].keys() - elsewhere


def test_the_readme_names_the_page_to_read_first():
    text = (ROOT / "adbench/methods/glass/README.md").read_text("utf-8")
    assert "read it\nfirst" in text
    assert "plain_step.py" in text
