"""What is allowed, in words, for every kind of field that a schema can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt
from pydantic import Field

from moecli.config import LARGEST, Config, Fraction, KindConfig, NonNegativeFloat, OneOf, PositiveFloat, PositiveInt
from moecli.recipe.schema import Recipe
from moecli.recipe.shape import Shape
from moecli.recipe.wording import describe, either, hint, nearest
from tests.recipe.toy_schema import TopK, Toy


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "a whole number"),
        (float, "a number"),
        (bool, "true or false"),
        (str, "text"),
        (type(None), "null"),
        (PositiveInt, "a whole number of at least 1"),
        (PositiveInt | None, "a whole number of at least 1, or null"),
        (Annotated[int, Interval(ge=2, le=8)], "a whole number from 2 to 8"),
        (Annotated[int, Field(multiple_of=8)], "a whole number divisible by 8"),
        (Annotated[int, Field(ge=8, multiple_of=8)], "a whole number of at least 8 and divisible by 8"),
        (PositiveFloat, "a number above 0"),
        (NonNegativeFloat, "a number of at least 0"),
        (Fraction, "a number from 0 to 1"),
        (Annotated[float, Gt(0), Le(1)], "a number above 0 and at most 1"),
        (Annotated[float, Ge(0), Lt(1)], "a number of at least 0 and below 1"),
        (Annotated[float, Le(1)], "a number of at most 1"),
        (Literal["a", "b", 3, None], "one of a, b, 3, null"),
        (Literal["auto"] | int, '"auto" or a whole number'),
        (int | bool | str | None, "a whole number, true or false or text, or null"),
        (list[PositiveInt], "a list, each item a whole number of at least 1"),
        (Annotated[list[str], Len(1)], "a list of at least 1 item, each item text"),
        (tuple[int, ...], "a list, each item a whole number"),
        (dict[str, float], "a mapping, each value a number"),
        (Annotated[str, Field(min_length=1, max_length=8)], "text of at least 1 and at most 8 characters"),
        (Annotated[str, Field(pattern="^[a-z]+$")], "text that matches ^[a-z]+$"),
        (Config, "a mapping of keys to values"),
        (Annotated[KindConfig, OneOf({"topk": TopK}, default="topk")] | None, "a mapping of keys to values, or null"),
        (bytes, "another value"),
    ],
)
def test_describe(annotation: Any, text: str) -> None:
    assert describe(Shape.of(annotation)) == text


def all_shapes(config: type[Config]) -> Iterator[Shape]:
    for name in config.model_fields:
        shape = Shape.of(config).child(name, {})
        assert shape
        yield shape
        inner = shape.one_of.table.values() if shape.one_of else [shape.config({})]
        for config_within in inner:
            yield from all_shapes(config_within) if config_within else ()


@pytest.mark.parametrize("schema", [Toy, Recipe])
def test_there_are_words_for_every_field(schema: type[Config]) -> None:
    words = [describe(shape) for shape in all_shapes(schema)]
    assert len(words) > 20
    assert not [text for text in words if "another value" in text]


def test_a_bound_that_nobody_meets_is_told_to_the_one_who_met_it() -> None:
    assert describe(Shape.of(PositiveInt), 10**12) == f"a whole number from 1 to {LARGEST}"


def test_infinity_is_told_that_numbers_are_finite() -> None:
    assert describe(Shape.of(PositiveFloat), float("inf")) == "a finite number above 0"


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Literal["adamw", "muon"], "adam", "; did you mean adamw?"),
        (Literal["adamw", "muon"], "sgd", ""),
        (Literal["adamw"] | None, "ADAMW", "; did you mean adamw?"),
        (Literal["all"] | int, "al", "; did you mean all?"),
        (PositiveInt, 1e3, "; write 1000"),
        (PositiveInt | None, 2.0, "; write 2"),
        (PositiveInt, 2.5, ""),
        (PositiveInt, 1e300, ""),  # nobody wants to see 301 digits
        (PositiveInt, float("inf"), ""),
        (float, 3, ""),
        (str, 3.0, ""),
    ],
)
def test_hint(annotation: Any, value: Any, text: str) -> None:
    assert hint(Shape.of(annotation), value) == text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("num_expert", "num_experts"),
        ("Num-Experts", "num_experts"),
        ("experts", "num_experts"),
        ("topk", "top_k"),
        ("lr", ""),
        ("k" * 10**6, ""),
    ],
)
def test_nearest(name: str, near: str) -> None:
    assert nearest(name, ["num_experts", "top_k", "kind"]) == near


def test_either() -> None:
    assert [either(list(words)) for words in ("a", "ab", "abc")] == ["a", "a or b", "a, b or c"]
