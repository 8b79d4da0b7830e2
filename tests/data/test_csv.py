"""Facts about the source `csv`."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_data import Prepared

from tlcompile.data.csv import Options, load

Run = Callable[..., Prepared]
Told = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def call(content: str | bytes, name: str = "all.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return call


Write = Callable[..., Path]


def texts(path: Path, **options: Any) -> list[tuple[str, str]]:
    """(text, class) of every row."""
    source = load(Options(path=str(path), **options), "text", 0)
    return [(str(e.data), source.classes[e.label]) for split in source.labels for e in source.read(split)]


def test_quotes_line_ends_and_byte_order_marks_are_read(write: Write) -> None:
    path = write('\ufefftext,label\r\n"a, ""b""\r\nc",x\r\n\r\nplain,y\r\n')
    assert texts(path, text="text") == [('a, "b"\r\nc', "x"), ("plain", "y")]
    ids = [example.id for example in load(Options(path=str(path)), "text", 0).read("all")]
    assert ids == ["all.csv:2", "all.csv:5"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('text,label\ngood,1\n"never closed,1\nrest,0\n', 3),
        ('text,label\n"never closed,1\n"next",0\n', 2),
        ('text,label\ngood,1\n"closed"here,1\n', 3),
        ('text,label\ngood,1\n5" disk,1\nmore,0\n', 3),
    ],
)
def test_a_stray_quote_names_file_and_line(write: Write, told: Told, content: str, line: int) -> None:
    said = told("csv", "text", path=write(content))
    assert f"all.csv:{line}: a stray quote in this row" in said
    assert 'say quote = "none"' in said


def test_quotes_can_be_plain_characters(write: Write) -> None:
    path = write('text,label\n5" disk,1\n"open,0\n')
    assert texts(path, quote="none") == [('5" disk', "1"), ('"open', "0")]


def test_every_row_with_a_wrong_number_of_fields_is_named(write: Write, told: Told) -> None:
    said = told("csv", "text", path=write("text,label\na,1\nb\nc,d,0\n"))
    assert said.splitlines() == [
        "all.csv:3: the row has 1 field; 2 are expected (text, label)",
        "all.csv:4: the row has 3 fields; 2 are expected (text, label)",
    ]


def test_every_row_without_a_label_is_named(write: Write, told: Told) -> None:
    said = told("csv", "text", path=write("text,label\na,1\nb,\nc, \nd,0\n"))
    assert said.splitlines() == [f"all.csv:{n}: column 'label' is empty; every example needs a label" for n in (3, 4)]


def test_a_label_column_that_is_missing_is_named_with_the_nearest(write: Write, told: Told) -> None:
    path = write("text,label\na,1\nb,0\n")
    assert (
        "all.csv: has no column 'labl'; its columns are 'text' (text), 'label' (text); did you mean 'label'?"
        in told("csv", "text", path=path, label="labl")
    )
    said = told("csv", "text", path=write("one,two,three\na,b,c\n"))
    assert "no column can be taken as the label without being told" in said
    assert "no column can be taken as the text without being told" in said


def test_a_text_column_that_is_missing_is_named(write: Write, told: Told) -> None:
    assert "has no column 'body'" in told("csv", "text", path=write("text,label\na,1\n"), text="body")


def test_a_column_that_one_file_lacks_is_named_with_that_file(write: Write, tmp_path: Path, told: Told) -> None:
    write("text,label\na,1\nb,0\n", "train.csv")
    write("text,class\na,1\nb,0\n", "test.csv")
    assert "test.csv: has no column 'label'" in told("csv", "text", path=tmp_path)


def test_a_split_without_any_label_is_left_out_and_said(write: Write, tmp_path: Path, run: Run) -> None:
    write("text,label\n" + "".join(f"w{i},{i % 2}\n" for i in range(20)), "train.csv")
    write("text,label\na,\nb,\n", "test.csv")
    done = run("csv", "text", path=tmp_path)
    assert done.sizes == (14, 4, 2)
    assert "test of the source is left out: none of its 2 examples has a label" in done.info["notes"]


def test_integer_labels_are_sorted_as_numbers_and_others_as_text(write: Write) -> None:
    def classes(labels: list[str]) -> tuple[str, ...]:
        return load(Options(path=str(write("text,label\n" + "".join(f"w,{x}\n" for x in labels)))), "text", 0).classes

    assert classes(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert classes(["b", "10", "9"]) == ("10", "9", "b")


def test_classes_can_be_named_in_the_order_of_their_labels(write: Write, told: Told) -> None:
    path = write("text,label\na,1\nb,0\n")
    assert texts(path, class_names=["bad", "good"]) == [("a", "good"), ("b", "bad")]
    said = told("csv", "text", path=path, class_names=["bad"])
    assert "class_names must be 2 different names, found 1; the labels are 0, 1" in said


def test_columns_name_the_fields_of_files_without_a_header(write: Write, told: Told) -> None:
    path = write('"3","A title","A text"\n"4","Other","More"\n')
    assert texts(path, columns=["label", "title", "text"], text=["title", "text"]) == [
        ("A title A text", "3"),
        ("Other More", "4"),
    ]
    said = told("csv", "text", path=path)
    assert "all.csv:1: the first row is no header (3, A title, A text); give columns = [...]" in said
    assert "a name for each of its 3 fields" in said


def test_a_header_can_be_stated(write: Write) -> None:
    path = write("1,2\nw,x\n")
    assert texts(path, header=True, text="1", label="2") == [("w", "x")]
    path = write("text,label\nw,x\n")
    assert texts(path, header=True, columns=["a", "b"], text="a", label="b") == [("w", "x")]


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolon"), ("|", "bar"), ("\t", "tab")])
def test_another_delimiter_is_found_and_said(write: Write, delimiter: str, name: str) -> None:
    path = write(f"text{delimiter}label\na, b{delimiter}1\n")
    source = load(Options(path=str(path)), "text", 0)
    assert [e.data for e in source.read("all")] == ["a, b"]
    assert f"fields of all.csv are divided by {name}s: its first row has no comma" in source.notes
    assert texts(path, delimiter=delimiter) == [("a, b", "1")]


def test_what_was_inferred_is_said(write: Write, run: Run) -> None:
    path = write("sentence,category,id\n" + "".join(f"w{i},{'xy'[i % 2]},{i}\n" for i in range(20)))
    assert run("csv", "text", path=path).info["notes"] == [
        "the first row is taken as the header (all.csv): no field is empty, a number or repeated",
        "column 'category' is taken as the label: by its name",
        "column 'sentence' is taken as the text: by its name",
    ]


def test_files_are_told_apart_by_words_in_their_names(write: Write, tmp_path: Path, run: Run, told: Told) -> None:
    rows = "".join(f"w{i},{i % 2}\n" for i in range(6))
    for name in ("my-train_1.csv", "my-train_2.csv", "my-dev.csv", "TEST.csv", "restrained.csv", ".train-draft.csv"):
        write("text,label\n" + rows, name)
    done = run("csv", "text", path=tmp_path)
    assert done.sizes == (12, 6, 6)
    assert done.info["notes"][:2] == ["train is 2 files", "left out, because their names say no split: restrained.csv"]
    write("text,label\n" + rows, "train-test.csv")
    assert "its name mentions test and train; name it after one of them" in told("csv", "text", path=tmp_path)


def test_bytes_that_are_not_utf_8_name_file_and_line(write: Write, told: Told) -> None:
    said = told("csv", "text", path=write("text,label\ngood,1\ncaf\xe9,1\n".encode("latin-1")))
    assert "all.csv:3: is not UTF-8 text (byte 0xe9 at column 4); save the file as UTF-8" in said


def test_an_empty_file_and_a_folder_without_tables_are_named(write: Write, tmp_path: Path, told: Told) -> None:
    assert "no file ends in '.csv' or '.tsv'" in told("csv", "text", path=tmp_path)
    assert told("csv", "text", path=write("")) == "all.csv: the file is empty"
    assert "no examples were found" in told("csv", "text", path=write("text,label\n"))


def test_two_columns_of_one_name_are_refused(write: Write, told: Told) -> None:
    said = told("csv", "text", path=write("1,2,3\n"), columns=["text", "label", "text"])
    assert "two columns have the same name" in said


def test_a_long_document_is_one_field(write: Write) -> None:
    assert len(texts(write(f"text,label\n{'a' * 200_000},1\n"))[0][0]) == 200_000


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(cells, st.sampled_from("xyz")), min_size=1, max_size=8),
    delimiter=st.sampled_from(",\t;"),
)
def test_what_python_writes_as_csv_is_read_back(
    rows: list[tuple[str, str]], delimiter: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "all.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    assert texts(path, delimiter=delimiter) == rows
