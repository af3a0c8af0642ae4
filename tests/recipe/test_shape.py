"""What the schema allows at a key path."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from moecli.recipe.problem import KeyPath
from moecli.recipe.shape import Shape, has_path, paths_of_key, shape_at, value_at
from tests.recipe.toy_schema import MLP, Corpus, Hash, Model, Sparse, TopK, Toy


@pytest.mark.parametrize(
    ("path", "data", "config"),
    [
        ((), {}, Toy),
        (("model",), {}, Model),
        (("model", "ffn"), {}, Sparse),  # the default kind
        (("model", "ffn"), {"model": {"ffn": {"kind": "mlp"}}}, MLP),
        (("model", "ffn"), {"model": {"ffn": {"kind": "odd"}}}, None),
        (("model", "ffn"), {"model": {"ffn": {"kind": ["mlp"]}}}, None),  # not even a word
        (("model", "ffn", "router"), {"model": {"ffn": {"router": {"kind": "hash"}}}}, Hash),
        (("model", "ffn", "router"), {"model": {"ffn": {"kind": "mlp", "router": {"kind": "hash"}}}}, None),  # an mlp has none
        (("model", "routers", 1), {"model": {"routers": [{}, {"kind": "hash"}]}}, Hash),
        (("model", "routers", 0), {"model": {"routers": [{}, {"kind": "hash"}]}}, TopK),
        (("data", "extra"), {}, Corpus),  # behind `| None`
        (("data", "odd", "odder"), {}, None),
    ],
)
def test_config_at(path: KeyPath, data: Any, config: Any) -> None:
    shape = shape_at(Toy, path, data)
    assert (shape and shape.config(value_at(data, path))) == config


@pytest.mark.parametrize(
    ("path", "type_", "nullable"),
    [
        (("data", "labels", "anything"), int, False),
        (("data", "shape", 7), int, False),
        (("data", "files", 0), str, False),
        (("model", "ffn", "d_expert"), int, True),
        (("model", "num_heads"), int, False),
    ],
)
def test_bare_types(path: KeyPath, type_: type, nullable: bool) -> None:
    shape = shape_at(Toy, path, {})
    assert shape and (shape.type, shape.nullable) == (type_, nullable)


def test_members_of_a_plain_union() -> None:
    shape = shape_at(Toy, ("training", "clip"), {})
    assert shape and shape.nullable
    assert [member.type for member in shape.members] == [float, bool]
    assert Shape.of(Literal["a", "b"]).members == []


def test_limits_are_found_wherever_they_were_written() -> None:
    in_union = shape_at(Toy, ("training", "clip"), {})
    assert in_union
    assert [type(limit).__name__ for limit in in_union.members[0].limits] == ["Gt", "Le"]
    on_the_field = shape_at(Toy, ("data", "tag"), {})
    assert on_the_field
    assert [getattr(limit, "pattern", None) for limit in on_the_field.limits][-1] == "^[a-z]*$"


def test_paths_of_key_look_through_all_kinds_from_the_top_down() -> None:
    assert list(paths_of_key(Shape.of(Toy), "top_k")) == [("model", "ffn", "router", "top_k")]
    assert list(paths_of_key(Shape.of(Toy), "d_ff")) == [("model", "ffn", "d_ff")]
    assert list(paths_of_key(Shape.of(Toy), "seed")) == [("seed",)]
    assert list(paths_of_key(Shape.of(Toy), "weight")) == [("data", "extra", "weight")]
    assert list(paths_of_key(Shape.of(Toy), "nothing")) == []


def test_values_and_paths() -> None:
    data = {"a": [{"b": None}], "c": 3}
    assert value_at(data, ("a", 0)) == {"b": None}
    assert value_at(data, ("c", "d", 0)) is value_at(data, ("a", 1)) is value_at(data, ("a", "b")) is None
    assert has_path(data, ("a", 0, "b")) and has_path(data, ())
    assert not any(has_path(data, path) for path in [("a", 1), ("b",), ("c", "d"), ("a", 0, "c"), ("a", "b")])
