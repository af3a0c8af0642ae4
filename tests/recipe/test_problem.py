"""How a problem reads: key paths and values on one line, short, and printable whatever is in them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.errors import RecipeError
from moecli.recipe.problem import InvalidRecipe, KeyPath, Place, Problem, show_path, show_value


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("model", "ffn", "num_experts"), "model.ffn.num_experts"),
        (("data", "files", 2, "path"), "data.files[2].path"),
        (("größe", "a-b"), "größe.a-b"),
        (("labels", "a b"), 'labels."a b"'),
        (("a.b", ""), '"a.b".""'),
        (("\u202e\n",), '"\\u202e\\n"'),
        ((), ""),
    ],
)
def test_show_path(path: KeyPath, text: str) -> None:
    assert show_path(path) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-05, "1e-05"),
        (-math.inf, "-.inf"),
        (math.nan, ".nan"),
        ("abc", '"abc"'),
        ("3", '"3"'),
        ('a"b\\c\n\x1b[31m\ud800', '"a\\"b\\\\c\\n\\x1b[31m\\ud800"'),
        ([1, "a", {"b": None}], '[1, "a", {b: null}]'),
        ("x" * 1000, '"' + "x" * 55 + " ..."),
    ],
)
def test_show_value(value: Any, text: str) -> None:
    assert show_value(value) == text


@given(st.recursive(st.text() | st.floats() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_every_value_is_shown_on_one_short_printable_line(value: Any) -> None:
    text = show_value(value)
    assert len(text) <= 60
    assert text.isprintable()


LATE = Problem(Place.in_file("my.yaml", 12), ("b",), "unknown key")
EARLY = Problem(Place.in_file("my.yaml", 3), ("model", "d_model"), "must be a whole number", '"abc"')
SET = Problem(Place.of_override(0, "c=\n"), (), "must read key.path=value")


def test_one_problem_is_one_line_and_the_next_step() -> None:
    error = InvalidRecipe("my.yaml", [EARLY])
    assert isinstance(error, RecipeError)
    assert str(error) == (
        'my.yaml:3: model.d_model = "abc": must be a whole number\n  next: `moecli recipes show quickstart` shows a complete recipe'
    )


def test_several_problems_are_counted_and_sorted_as_a_reader_meets_them() -> None:
    error = InvalidRecipe("my.yaml", [SET, LATE, EARLY])
    assert error.problems == (EARLY, LATE, SET)
    assert str(error).splitlines()[:-1] == [
        "my.yaml: 3 problems",
        'my.yaml:3: model.d_model = "abc": must be a whole number',
        "my.yaml:12: b: unknown key",
        "--set c=\\n: must read key.path=value",
    ]


def test_a_flood_of_problems_is_cut() -> None:
    lines = str(InvalidRecipe("my.yaml", [LATE] * 1000)).splitlines()
    assert lines[0] == "my.yaml: 1000 problems"
    assert lines[-2] == "... and 970 more"
    assert len(lines) == 1 + 30 + 1 + 1
