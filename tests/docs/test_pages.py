"""The pages are current, complete, and ask for nothing from elsewhere."""

from __future__ import annotations

import html.parser
import re
import subprocess
import sys

import pytest

from docs import generate
from tests.e2e.verbs import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
OTHERS = {"presets.md", "sweeps.md"}  # a measurement's and a room's own pages


def test_generated_pages_are_current():
    old = [path.name for path, text in generate.pages().items() if path.read_text() != text]
    assert not old, f"python -m docs.generate writes {old}"


def test_the_example_on_the_page_is_the_example_that_runs():
    page = (DOCS / "extend.md").read_text()
    shown = dict(re.findall(r"`docs/example/([\w/.]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL))
    files = [path for path in (DOCS / "example").rglob("*.*") if path.suffix in (".py", ".yaml")]
    wanted = {str(path.relative_to(DOCS / "example")) for path in files} - {"dots/__init__.py"}
    assert set(shown) == wanted
    for name, text in shown.items():
        assert text == (DOCS / "example" / name).read_text(), name


def test_every_question_has_an_answer():
    page = (DOCS / "questions.md").read_text()
    parts = re.split(r"^### (\d+)\. .*$", page, flags=re.MULTILINE)
    answers = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    assert sorted(answers) == list(range(1, 46))
    assert all(len(text.strip()) > 40 for text in answers.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_of_plain_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http") and target not in OTHERS:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_contents():
    index = (DOCS / "index.md").read_text()
    for page in PAGES:
        if page.name not in (*OTHERS, "index.md"):
            assert f"\n{page.stem}\n" in index, page.name
    for room in (REPOSITORY / "adbench" / "methods").glob("*/README.md"):
        assert f"methods/{room.parent.name}/README.md" in (DOCS / "methods.md").read_text()


class Requests(html.parser.HTMLParser):
    """Collects what a browser would fetch by itself."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "license"):
            self.found.append(given.get("href") or "")


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_fetches_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("sphinx")
    command = ["-m", "sphinx", "-q", "-W", "-c", str(DOCS), str(REPOSITORY), str(tmp_path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        reader = Requests()
        reader.feed(page.read_text())
        outside = [found for found in reader.found if re.match(r"(https?:)?//", found)]
        assert not outside, (page, outside)
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet
