"""Recipes that are fine, drawn by hypothesis from the schema itself: every kind of every table, every key.

Knows the schema and its shapes. Must not know what a key means.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Lt
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from moecli.config import Config
from moecli.recipe.load import parse_recipe
from moecli.recipe.problem import InvalidRecipe, KeyPath
from moecli.recipe.schema import Recipe
from moecli.recipe.shape import Shape, value_at
from moecli.recipe.yaml_source import write_yaml

# Small enough for a forward pass in milliseconds; where any number would do, most draws would break a rule between keys.
SIZES: dict[str, list[Any]] = {
    "d_model": [16, 32], "num_layers": [1, 2, 3], "num_heads": [1, 2, 4], "num_kv_heads": [1, 2], "head_dim": [4, 8], "d_ff": [8, 24],
    "d_expert": [8, 24], "dense_d_ff": [8], "num_experts": [2, 4, 8], "batch_size": [4, 8], "gradient_accumulation": [1, 2],
    "seq_len": [8, 16],
    "vocab_size": [257, 300], "allow_future_leak": [True],
}  # fmt: skip
# Never left out: their defaults are large, or would leave no routing to look at.
ALWAYS = {"data", "model", "training", "ffn", "router", "d_model", "num_layers", "num_heads", "seq_len", "batch_size", "allow_future_leak"}
MOST_REPAIRS = 12


@st.composite
def valid_recipes(draw: DrawFn, ffn: str, router: str) -> tuple[str, Recipe]:
    """A recipe with this feed-forward kind, and with this router where that kind has one, as YAML and as it was loaded.

    What rules between keys refuse is left out until none does.
    """
    data = draw(_config(Recipe, {"ffn": ffn, "router": router}))
    for _ in range(MOST_REPAIRS):
        text = write_yaml(data) if data else "name: empty\n"
        try:
            return text, parse_recipe(text, "drawn.yaml").recipe
        except InvalidRecipe as error:
            for problem in error.problems:
                _leave_out(draw, data, problem.path)
    assume(False)
    raise AssertionError


@st.composite
def _config(draw: DrawFn, config: type[Config], kinds: dict[str, str]) -> dict[str, Any]:
    data = {}
    for name, info in config.model_fields.items():
        if info.is_required() or name in ALWAYS or draw(st.booleans()):
            data[name] = draw(_value(name, Shape.of(info.annotation, tuple(info.metadata)), kinds))
    return data


@st.composite
def _value(draw: DrawFn, name: str, shape: Shape, kinds: dict[str, str]) -> Any:
    if shape.nullable and draw(st.integers(0, 3)) == 0:
        return None
    if shape.one_of:
        kind = kinds.get(name) or draw(st.sampled_from(sorted(shape.one_of.table)))
        return draw(_config(shape.one_of.table[kind], kinds)) | {"kind": kind}
    if config := shape.config({}):
        return draw(_config(config, kinds))
    if shape.members:
        return draw(_value(name, draw(st.sampled_from(shape.members)), kinds))
    if name in SIZES:
        return draw(st.sampled_from(SIZES[name]))
    if get_origin(shape.type) is Literal:
        return draw(st.sampled_from(get_args(shape.type)))
    if get_origin(shape.type) is list:
        return draw(st.lists(_value("", Shape.of(get_args(shape.type)[0]), kinds), min_size=1, max_size=3, unique=True))
    return draw(_scalar(shape))


def _scalar(shape: Shape) -> st.SearchStrategy[Any]:
    if shape.type is bool:
        return st.booleans()
    if shape.type is str:
        return st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
    least, most = 0.0, 4.0
    for limit in shape.limits:
        if isinstance(limit, Interval):
            least, most = max(least, limit.ge or limit.gt or 0), min(most, limit.le or limit.lt or most)
        elif isinstance(limit, Gt | Ge):
            least = max(least, getattr(limit, "gt", getattr(limit, "ge", 0)))
        elif isinstance(limit, Lt):
            most = min(most, limit.lt)
    if shape.type is int:
        return st.integers(int(least), max(int(least), int(most)))
    assert shape.type is float, shape
    # of a rope_theta or an eps near 0, float32 makes 0
    return st.floats(least + 1e-6, most, exclude_max=True)


def _leave_out(draw: DrawFn, data: dict[str, Any], path: KeyPath) -> None:
    """Takes a value out, or, where it is a default that breaks the rule, one beside it, or the mapping around them."""
    path = path[: next((depth for depth, key in enumerate(path) if isinstance(key, int)), len(path))]
    for depth in range(len(path), 0, -1):
        parent = value_at(data, path[: depth - 1])
        if isinstance(parent, dict) and path[depth - 1] in parent and (path[depth - 1] != "kind" or len(parent) == 1):
            del parent[path[depth - 1]]
            return
        if isinstance(parent, dict) and (others := sorted(parent.keys() - {"kind", *ALWAYS})):
            del parent[draw(st.sampled_from(others))]
            return
    data.pop(draw(st.sampled_from(sorted(data))), None) if data else None
