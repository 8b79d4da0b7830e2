"""A resolved recipe as TOML."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tlcompile.recipe.write import toml

CHARACTERS = st.characters(exclude_categories=["Cs"])
SCALARS = st.one_of(
    st.text(CHARACTERS),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
KEYS = st.from_regex(r"[a-z_]{1,6}", fullmatch=True)
PAIRS = st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=4)
TABLES = st.dictionaries(KEYS, SCALARS | PAIRS.flatmap(lambda pairs: st.just({**pairs, "sub": pairs})), max_size=4)


@given(TABLES, st.lists(PAIRS, min_size=1, max_size=3))
@example({"delete": "\x7f", "controls": "\0\t\n\r\x1b\u0085\u2028", "quotes": "\"'\\"}, [{}])
def test_plain_values_tables_and_arrays_of_tables_read_back_the_same(tables: dict[str, Any], array: list[Any]) -> None:
    resolved = {**tables, "compile": array}
    assert tomllib.loads(toml(resolved)) == resolved


def test_a_key_without_a_value_is_a_comment() -> None:
    text = toml({"data": {"header": None, "path": "x"}})
    assert text == '\n[data]\n# header is not set\npath = "x"\n'


def test_an_empty_table_is_written_and_a_table_of_tables_only_is_not() -> None:
    assert toml({"optimize": {"simplify": {}}}) == "\n[optimize.simplify]\n"
    assert toml({"gates": {}}) == "\n[gates]\n"
