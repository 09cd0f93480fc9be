"""Lists of pictures as spreadsheets write them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adbench.data.layouts import get_layout
from adbench.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from adbench.data.tables import read_table
from adbench.errors import UserError
from tests.data import trees

TEXT = (
    "image{s}split{s}label{s}camera\nteil ü.png{s}train{s}OK{s}left\nb.png{s}test{s}NOK{s}right\n"
)


def written(folder: Path, data: bytes | str) -> Path:
    path = folder / "samples.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def samples(folder: Path, **options: object):
    return get_layout("csv", name="part", **options).read(folder, "part")


def labels(folder: Path) -> list[int]:
    return [sample.label for sample in samples(folder)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_separators_and_encodings_are_recognised(tmp_path, separator, encoding, newline):
    text = TEXT.format(s=separator).replace("\n", newline)
    written(tmp_path, text.encode(encoding))
    found = {sample.image.name: sample for sample in samples(tmp_path)}
    assert {name: s.label for name, s in found.items()} == {"teil ü.png": 0, "b.png": 1}
    assert found["b.png"].tags == {"camera": "right"}


def test_what_is_no_text_is_one_line(tmp_path):
    for data in (b"image\n\x00\x01\x02", "image\na.png\n".encode("utf-16-le")):
        with pytest.raises(UserError, match="encoding is not known"):
            read_table(written(tmp_path, data), ["image"])


def test_a_spreadsheets_hint_and_headers_in_capitals(tmp_path):
    written(tmp_path, "sep=;\nImage;Label\na.png;ok\nb.png;what\n")
    with pytest.raises(UserError, match=r"line 4: label 'what'"):
        samples(tmp_path)


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    text = 'image,note,label\n\na.png,"two\nlines",0\n\n\nb.png,,huh\n'
    with pytest.raises(UserError, match=r"samples\.csv, line 7: label 'huh'"):
        samples(written(tmp_path, text).parent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["a,1", "", '"x\ny",2', '"p\r\n\r\nq",3', " , "]), max_size=8))
def test_rows_know_their_line(tmp_path, rows):
    text, expected, line = "image,n\n", [], 2
    for row in rows:
        if row.strip(", "):
            expected.append(line)
        text += row + "\n"
        line += row.count("\n") + 1
    found = read_table(written(tmp_path, text), ["image"])
    assert [int(row.where.rsplit(" ", 1)[1]) for row in found] == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("image,label\na.png,0,1\n", "line 2: 3 cells, but 2 columns"),
        ('image\n"a.png\nb.png\n', "line 2: unexpected end of data"),
        ("image,image\na.png,b.png\n", "two columns 'image'"),
        ("picture;label\na.png;0\n", r"no column 'image'.*found: picture, label"),
        ("", "no column 'image'"),
        ("image\n,\n", "lists no image"),
        ("image,label\n,0\n", "line 2: no image named"),
        ("image\na.png\nb.png\na.png\n", "line 4: a.png is listed before, in .*line 2"),
        ("image,label\n\na.png,N\x1b[31mOK\n", "line 3: holds control characters"),
        ('image,split,defect\na.png,test,"a\nb"\n', "line 2: defect .*several lines"),
        ("image,category\na.png,../../up\n", "line 2: category: '../../up'"),
    ],
)
def test_faults_are_named_with_their_line(tmp_path, text, match):
    written(tmp_path, text)
    with pytest.raises(UserError, match=match) as caught:
        samples(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "label"),
    [
        *((word, NORMAL) for word in ("0", "0.0", "OK", "Good", "normal", "IO", "i.O.", "PASS")),
        *(
            (word, ANOMALOUS)
            for word in ("1", "1.0", "NOK", "ng", "n.i.O.", "NIO", "Not OK", "bad")
        ),
        *((word, UNKNOWN) for word in ("-1", "unknown")),
    ],
)
def test_known_labels(tmp_path, word, label):
    written(tmp_path, f"image,split,label\na.png,test,{word}\n")
    assert labels(tmp_path) == [label]


@pytest.mark.parametrize("word", ["true", "False", "yes", "2", "10", "00.5", "nan", "x", "0 1"])
def test_other_labels_are_refused(tmp_path, word):
    written(tmp_path, f"image,label\na.png,{word}\n")
    with pytest.raises(UserError, match=r"line 2: label .*use 0/1"):
        labels(tmp_path)


# paths stay where they belong


@pytest.mark.parametrize("path", ["../x.png", "a/../../x.png", "/etc/x.png", "..", "/"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_paths_that_lead_out_are_refused(tmp_path, path, column):
    row = f"{path},\n" if column == "image" else f"a.png,{path}\n"
    written(tmp_path, f"image,mask\n{row}")
    with pytest.raises(UserError, match=r"line 2: .* lies outside of .*options\.images=FOLDER"):
        samples(tmp_path)


def test_paths_inside_in_any_form_and_links_are_fine(tmp_path):
    folder = tmp_path / "list"
    trees.image(tmp_path / "elsewhere/c.png")
    trees.image(folder / "a.png")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    written(folder, f"image\n./a.png\nx/../b.png\n{folder}/d.png\nlink/c.png\n")
    assert [s.relative for s in samples(folder)] == ["a.png", "b.png", "d.png", "link/c.png"]


def test_pictures_may_lie_in_a_folder_that_is_named(tmp_path):
    (tmp_path / "lists").mkdir()
    written(tmp_path / "lists", "image\na.png\n")
    for images in ("../pictures", str(tmp_path / "pictures")):
        with pytest.raises(UserError, match=r"options\.images"):
            samples(tmp_path / "lists", images="../none")
        trees.image(tmp_path / "pictures/a.png")
        (sample,) = samples(tmp_path / "lists", images=images)
        assert sample.image == tmp_path / "pictures/a.png"
        assert sample.relative == "a.png"
    with pytest.raises(UserError, match=r"options\.file"):
        samples(tmp_path / "lists", file="../other.csv")


@pytest.mark.parametrize("name", ["visa", "pcb_bank"])
@pytest.mark.parametrize(
    "row",
    [
        "x,train,normal,../../a.png,",
        "x,test,anomaly,a.png,/m.png",
        "../x,train,normal,a.png,",
        "x,train,normal,,",
        "x,train",
    ],
)
def test_split_files_stay_in_their_data_set(tmp_path, name, row):
    file = "1cls_clear.csv" if name == "pcb_bank" else "1cls.csv"
    (tmp_path / file).write_text(f"object,split,label,image,mask\n{row}\n")
    layout = get_layout(name)
    with pytest.raises(UserError, match="line 2"):
        layout.read(tmp_path, layout.categories(tmp_path)[0])


def test_names_in_another_unicode_form_are_found(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Gehäuse.png") for form in ("NFC", "NFD"))
    for listed, there in ((composed, apart), (apart, composed)):
        (tmp_path / listed).unlink(missing_ok=True)
        trees.image(tmp_path / there)
        written(tmp_path, f"image\n{listed}\n")
        (sample,) = samples(tmp_path)
        assert sample.image.name == there
