"""How errors are told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tlcompile import errors
from tlcompile.errors import Problem, RecipeError, TlcompileError, first_line, nearest, one_of


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem("toy.toml:3: seed", "unknown key"), "toy.toml:3: seed: unknown key"),
        (Problem("toy.toml", "no such recipe", "toys.toml"), "toy.toml: no such recipe; did you mean 'toys.toml'?"),
        (Problem("", "nothing to do"), "nothing to do"),
    ],
)
def test_a_problem_says_where_what_and_the_nearest_right_name(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_an_error_holds_every_problem_and_tells_one_a_line() -> None:
    error = RecipeError(Problem("a", "is wrong"), "and so on")
    assert error.problems == (Problem("a", "is wrong"), Problem("", "and so on"))
    assert str(error) == "a: is wrong\nand so on"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("TlcompileError", 4),
        ("RecipeError", 2),
        ("DataError", 3),
        ("BackendMissing", 4),
        ("ParityError", 4),
        ("BundleError", 4),
        ("GateError", 5),
    ],
)
def test_each_kind_has_its_exit_code(name: str, code: int) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, TlcompileError)
    assert kind("x").exit_code == code


def test_every_kind_of_error_has_an_exit_code_that_is_told_in_the_docstring() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, TlcompileError)]
    assert len(kinds) == 7
    assert errors.__doc__
    for kind in kinds:
        [line] = [line for line in errors.__doc__.splitlines() if kind.__name__ in line]
        assert f" {kind.exit_code} " in line


def test_the_nearest_name_is_the_likeliest_one_or_none() -> None:
    assert nearest("openvno", ["onnxruntime", "openvino"]) == "openvino"
    assert nearest("zzz", ["onnxruntime", "openvino"]) == ""
    assert nearest("anything", []) == ""


@given(st.text(), st.lists(st.text()))
def test_the_nearest_name_is_a_known_one(name: str, known: list[str]) -> None:
    assert nearest(name, known) in ["", *known]


@given(st.text(min_size=1), st.lists(st.text(min_size=1)))
def test_a_known_name_is_nearest_to_itself(name: str, others: list[str]) -> None:
    assert nearest(name, [*others, name]) == name


@pytest.mark.parametrize(
    ("known", "text"), [([], ""), (["a"], "'a'"), (["a", "b"], "'a' or 'b'"), (["a", "b", "c"], "'a', 'b' or 'c'")]
)
def test_choices_are_listed_as_a_sentence_would(known: list[str], text: str) -> None:
    assert one_of(known) == text


@pytest.mark.parametrize(
    ("said", "text"), [("it broke\nat line 3", "it broke"), ("\n  late words", "late words"), ("", "RuntimeError")]
)
def test_an_error_of_a_library_is_told_by_its_first_words_or_its_class(said: str, text: str) -> None:
    assert first_line(RuntimeError(said)) == text
