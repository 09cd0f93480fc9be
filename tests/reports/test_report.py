"""What the report says of run folders, and that nothing in them is believed."""

import csv
import io
import time
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from adbench.cli.main import main
from adbench.reports.charts import Axis
from adbench.reports.facts import label_runs
from adbench.reports.intervals import interval, resampled_auroc, weighted_auroc
from adbench.reports.leaderboard import printed
from adbench.reports.pictures import encoded
from adbench.reports.tables import csv_table, latex_table, markdown_table
from tests.reports.folders import HOSTILE, SCORES, made_up


def test_weighted_auroc_is_the_auroc_of_repeated_images():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 30).astype(float)
    labels = rng.integers(0, 2, 30)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for row, found in zip(weights, weighted_auroc(scores, labels, weights), strict=True):
        repeated = np.repeat(np.arange(30), row.astype(int))
        assert found == pytest.approx(roc_auc_score(labels[repeated], scores[repeated]))


def test_bootstrap_holds_the_figure_and_repeats_itself():
    scores, labels = np.array(SCORES).T
    labels = labels.astype(np.int64)
    first = resampled_auroc(scores, labels, 400)
    low, high = interval(first)
    assert low < roc_auc_score(labels, scores) < high
    assert (first == resampled_auroc(scores, labels, 400)).all()
    assert interval(resampled_auroc(scores, np.zeros_like(labels), 10)) is None


def test_ticks_are_round_and_inside():
    assert Axis("", 0, 1).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert Axis("", 8, 30, log=True).ticks() == pytest.approx([10, 20])


def test_the_paper_stands_beside_equal_categories_only():
    assert printed("glass", "mvtec", ["bottle", "screw"])["image AUROC"] == pytest.approx(1.0)
    assert printed("ulsad", "mvtec", ["bottle"])["AUPRO 0.3"] == pytest.approx(0.9016)
    assert printed("glass", "mvtec", ["bottle", "elsewhere"]) == {}
    assert printed("toy", "mvtec", ["bottle"]) == {}


def _page(root, *words):
    assert main(["report", f"runs={root}", *words]) == 0
    return (root / "report.html").read_text()


def test_only_the_best_of_rows_of_the_same_categories_is_bold(tmp_path):
    made_up(tmp_path, auroc=0.91)
    made_up(tmp_path, model="ulsad", auroc=0.93)
    made_up(tmp_path, model="dfr", category="pill", auroc=0.99)
    page = _page(tmp_path)
    assert "<b>0.9300</b>" in page
    board = page.partition('class="board')[2].partition("</table>")[0]
    assert "<b>0.9100</b>" not in board
    assert "<b>0.9900</b>" not in board  # nothing to be compared with


def test_long_numbers_of_a_search_are_shortened_where_rows_stay_apart():
    def run(name, word):
        return SimpleNamespace(id=name, model="glass", overrides=["train", word], label="")

    apart = [run("a", "model.gas.sigma=0.05102630490769"), run("b", "model.gas.sigma=1.24501")]
    label_runs(apart)
    assert [each.label for each in apart] == ["glass gas.sigma=0.05103", "glass gas.sigma=1.24501"]
    near = [run("a", "model.gas.sigma=0.05102630"), run("b", "model.gas.sigma=0.05102631")]
    label_runs(near)
    assert len({each.label for each in near}) == 2


def test_the_page_holds_everything_and_no_address(tmp_path):
    made_up(tmp_path)
    made_up(tmp_path, "seed1-00000001", seed=1, auroc=0.94)
    page = _page(tmp_path)
    for told in ("0.9200", "± 0.0283", "paper 1.0000", "speed against accuracy", "per-region"):
        assert told in page
    for address in ("http:", "https:", 'src="//', "@import", "url("):
        assert address not in page.replace("Content-Security-Policy", "")
    assert "default-src 'none'" in page


def test_names_of_files_and_kinds_are_text(tmp_path):
    made_up(tmp_path)
    page = _page(tmp_path)
    assert HOSTILE not in page
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page


def test_a_picture_that_is_none_is_left_out(tmp_path):
    folder = made_up(tmp_path)
    bad = folder / "images" / "gallery" / "003.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    assert encoded(bad, 64, "PNG") is None
    link = folder / "images" / "gallery" / "004.jpg"
    link.unlink()
    link.symlink_to("/etc/hostname")
    assert "1 more" not in _page(tmp_path)
    assert "2 more of this run" in _page(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", "{"),
        ("metrics.json", "[]"),
        ("predictions.csv", "path,label\nx,1\n"),
        ("predictions.csv", "path,label,defect,score\nx,one,y,z\n"),
        ("run.json", '{"status": "running"}'),
    ],
)
def test_a_damaged_run_is_named_and_the_rest_reported(tmp_path, file, text):
    made_up(tmp_path)
    bad = made_up(tmp_path, "seed1-00000001", seed=1)
    (bad / file).write_text(text)
    page = _page(tmp_path)
    assert "1 not reported" in page
    assert "seed1-00000001" in page


@pytest.mark.parametrize("file", ["curves.json", "history.csv", "threshold.json"])
@pytest.mark.parametrize("text", ["", "[1]", '{"pixel": {"roc": {"x": "a", "y": [{}]}}}', "\0"])
def test_what_a_run_lacks_is_missing_not_fatal(tmp_path, file, text):
    folder = made_up(tmp_path)
    (folder / file).write_text(text)
    assert "Pictures" in _page(tmp_path)


def test_nothing_to_report_is_one_line(tmp_path, capsys):
    assert main(["report", f"runs={tmp_path}"]) == 2
    assert "no run in" in capsys.readouterr().err
    assert main(["report", "runs=nowhere/**/x", "details=-1"]) == 2
    assert "details" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word", ["format=pdf", "gallery=-1", "megabytes=0", "bootstrap=0", "details=x"]
)
def test_keys_have_types_and_ranges(word, tmp_path, capsys):
    made_up(tmp_path)
    assert main(["report", f"runs={tmp_path}", word]) == 2
    error = capsys.readouterr().err.strip()
    assert word.partition("=")[0] in error
    assert "\n" not in error


def test_all_formats_are_written_and_csv_is_exact(tmp_path, capsys):
    made_up(tmp_path, auroc=0.123456789)
    assert main(["report", f"runs={tmp_path}", "format=all"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    assert rows[0]["image AUROC"] == "0.123456789"
    assert "| glass |" in (tmp_path / "report.md").read_text()
    assert r"\toprule" in (tmp_path / "report.tex").read_text()


def test_one_file_by_its_own_name_and_pattern(tmp_path):
    made_up(tmp_path)
    made_up(tmp_path, model="ulsad")
    target = tmp_path / "out" / "table.tex"
    words = [f"runs={tmp_path}/ulsad/*/*/*", f"out={target}", "format=latex"]
    assert main(["report", *words]) == 0
    assert "ulsad" in target.read_text()
    assert "glass" not in target.read_text()


def test_cells_cannot_leave_their_tables():
    assert markdown_table(["a"], [["x|y\n<b>"]]).splitlines()[2] == r"| x\|y \<b\> |"
    assert csv_table(["a"], [["=1+1"], ["-0.5"]]).splitlines() == ["a", "'=1+1", "-0.5"]
    assert r"\_x \& \textbackslash{}" in latex_table("c", ["a"], [["_x & \\"]])


def test_the_page_stays_below_its_size(tmp_path):
    for number in range(6):
        folder = made_up(tmp_path, f"seed{number}-0000000{number}", seed=number)
        _noise(folder)
    page = _page(tmp_path, "megabytes=2", "details=6")
    assert len(page) < 2e6
    assert "runs stand in the tables only" in page


def _noise(folder):
    import cv2

    rng = np.random.default_rng(0)
    for path in (folder / "images" / "gallery").glob("*.[jp][pn]g"):
        cv2.imwrite(str(path), rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))


def test_five_hundred_runs_are_reported_in_time_and_in_size(tmp_path):
    for number in range(500):
        made_up(
            tmp_path,
            f"seed{number % 5}-{number:08d}",
            seed=number % 5,
            category=f"c{number // 5 % 20:02d}",
            gallery=number < 20,
            overrides=(f"experiment=e{number // 100}",),
        )
    start = time.perf_counter()
    page = _page(tmp_path)
    assert time.perf_counter() - start < 30
    assert len(page) < 30e6
