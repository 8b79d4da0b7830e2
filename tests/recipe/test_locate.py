"""Where a key stands in the text of a recipe."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile.recipe import locate

TEXT = """\
# a comment = 1
name = "toy"

[ data ]
source = "csv"  # [not.a.table]
"quoted" = 1
split.train = 0.7
columns = [
  "a",
]

[train.augment]
hflip = true

[[compile]]
backend = "openvino"

[[ compile ]]  # the second
backend = "onnxruntime"

[compile.sub]
key = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("data",), 4),
        (("data", "source"), 5),
        (("data", "quoted"), 6),
        (("data", "split", "train"), 7),
        (("data", "columns"), 8),
        (("train", "augment"), 12),
        (("train", "augment", "hflip"), 13),
        (("compile",), 15),
        (("compile", 0), 15),
        (("compile", 0, "backend"), 16),
        (("compile", 1), 18),
        (("compile", 1, "backend"), 19),
        (("compile", 1, "sub", "key"), 22),
    ],
)
def test_a_key_or_table_is_found_at_its_line(path: locate.Path, line: int) -> None:
    assert locate.lines(TEXT)[path] == line


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("data", "columns", 0), 8),
        (("data", "absent"), 4),
        (("compile", 1, "absent", "below"), 18),
        (("absent",), None),
        ((), None),
    ],
)
def test_what_has_no_line_of_its_own_is_found_at_what_is_around_it(path: locate.Path, line: int | None) -> None:
    assert locate.line_of(path, locate.lines(TEXT)) == line


def test_lines_are_counted_as_toml_and_editors_count_them() -> None:
    assert locate.lines("# a\u2028b\x85c\r\nname = 1\r\n")[("name",)] == 2


def test_a_path_is_spelt_with_dots_and_brackets() -> None:
    assert locate.spell(("compile", 1, "variants", 0)) == "compile[1].variants[0]"
    assert locate.spell(("data", "path")) == "data.path"
    assert locate.spell(()) == ""


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    assert all(1 <= line <= text.count("\n") + 1 for line in locate.lines(text).values())


NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, st.integers(), max_size=4), max_size=4), st.integers(0, 3))
def test_every_key_of_a_recipe_in_the_usual_form_is_found(tables: dict[str, dict[str, int]], gap: int) -> None:
    lines: list[str] = []
    expected: dict[tuple[Any, ...], int] = {}
    for table, pairs in tables.items():
        lines += [""] * gap + [f"[{table}]"]
        expected[table,] = len(lines)
        for key, value in pairs.items():
            lines.append(f"{key} = {value}")
            expected[table, key] = len(lines)
    text = "\n".join(lines)
    assert tomllib.loads(text) == tables
    assert locate.lines(text) == expected
