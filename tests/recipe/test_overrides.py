"""`--set`: syntax, order, and what becomes of the keys of the file when a kind changes."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from moecli.errors import RecipeError
from moecli.recipe.load import LoadedRecipe, parse_recipe
from tests.recipe.toy_schema import MLP, Hash, Soft, Sparse, TopK, Toy

TEXT = """\
name: toy
model:
  d_model: 64
  ffn:
    kind: sparse
    num_experts: 4
    router: {kind: topk, top_k: 1}
data: {files: [a, b], extra: {path: x}}
"""


def laid_over(*overrides: str, text: str = TEXT) -> LoadedRecipe[Toy]:
    return parse_recipe(text, "my.yaml", overrides, Toy)


def problems(*overrides: str, text: str = TEXT) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        laid_over(*overrides, text=text)
    lines = str(caught.value).splitlines()[:-1]
    return lines[1:] if len(lines) > 1 else lines


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training", "learning_rate", 1e-4),
        ("training.steps=1_000", "training", "steps", 1000),
        ("training.compile=true", "training", "compile", True),
        ("training.clip=null", "training", "clip", None),
        ("data.files=[x, 'y=z']", "data", "files", ["x", "y=z"]),
        ("data.labels.code=3", "data", "labels", {"code": 3}),
        ("data.tag=no", "data", "tag", "no"),
        (" data . tag = y ", "data", "tag", "y"),
        ("model.layers=[0, 1]", "model", "layers", [0, 1]),
        ("model.ffn={kind: mlp, d_ff: 512}", "model", "ffn", MLP(d_ff=512)),
        ("model.ffn.num_experts=8", "model", "ffn", Sparse(num_experts=8, router=TopK(top_k=1))),
    ],
)
def test_values_are_yaml(override: str, section: str, key: str, value: Any) -> None:
    loaded = laid_over(override)
    assert getattr(getattr(loaded.recipe, section), key) == value
    assert loaded.notices == ()


def test_mappings_on_the_way_are_made_also_in_place_of_null() -> None:
    extra = laid_over("data.extra.path=x", "data.extra.weight=0.5", text="data: {extra: null}").recipe.data.extra
    assert extra and (extra.path, extra.weight) == ("x", 0.5)
    assert laid_over("model.ffn.router.top_k=1", text="name: x").recipe.model.ffn == Sparse(router=TopK(top_k=1))


def test_the_last_of_two_counts() -> None:
    assert laid_over("seed=1", "seed=2").recipe.seed == 2
    assert laid_over("seed=x", "seed=2").recipe.seed == 2
    assert laid_over("seed=1e999", "seed=2").recipe.seed == 2


def test_an_override_heals_the_file() -> None:
    assert laid_over("seed=2", text="seed: 1e999").recipe.seed == 2


@pytest.mark.parametrize("override", ["foo", "=3", "a..b=1", ".a=1", "a.=1", "", "=", ".".join("a" * 41) + "=1"])
def test_bad_syntax(override: str) -> None:
    [line] = problems(override)
    assert line.endswith(": must read key.path=value, such as model.d_model=128")


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("name=", 'name: has no value: write null for none, "" for empty text'),
        ("name.x=3", 'name.x: can\'t be set within name = "toy": it holds no keys'),
        ("data.files.0=x", 'data.files.0: can\'t be set within data.files = ["a", "b"]: set the whole list, data.files=[...]'),
        ("model.d_model=abc", 'model.d_model = "abc": must be a whole number of at least 1'),
        ("data.files=[x, 3]", "data.files[1] = 3: must be text"),
        ("data.files=[x", "data.files: the list that begins here is not closed: ',' or ']' is missing"),
        ("name=a: b: c", "name: no ':' can stand here: check the indentation, or put text that holds ': ' in quotes"),
        ("model={ffn: {kind: mlp, d_f: 3}}", "model.ffn.d_f: unknown key; did you mean d_ff? (allowed here: kind, d_ff)"),
        ("modle.d_model=3", "modle: unknown key; did you mean model? (allowed here: name, seed, model, data, training)"),
        ("seed=1e999", "seed: the number is too large"),
        ("data.extra={weight: 1}", "data.extra.path: is missing; it must be text"),  # the path in the file is gone
        ("model={d_model: 3, d_model: 3}", "model.d_model: given twice, in line 1 and in line 1"),
        ("model.num_heads=3", "model.num_heads = 3: 3 heads do not divide d_model 64"),
    ],
)
def test_problems_name_the_override(override: str, what: str) -> None:
    assert problems(override) == [f"--set {override}: {what}"]


def test_a_value_is_shown_short_and_printable() -> None:
    [line] = problems("seed=" + "\x1b[31m" * 100)
    assert line.isprintable()
    assert len(line) < 250
    [line] = problems("\udcff=3")  # what a terminal's bytes become if they are not UTF-8
    assert line == "--set \\udcff=3: the text holds \\udcff, which is no character"


def test_problems_of_file_and_overrides_come_together() -> None:
    assert problems("foo", "seed=x", "model.d_model=65", text=TEXT + "training: {steps: 0}\n") == [
        "my.yaml:9: training.steps = 0: must be a whole number of at least 1",
        "--set foo: must read key.path=value, such as model.d_model=128",
        '--set seed=x: seed = "x": must be a whole number',
        "--set model.d_model=65: model.num_heads: 4 heads do not divide d_model 65",
    ]


def test_what_follows_from_a_bad_override_is_not_told() -> None:
    # 9 of the default 8 experts would be too many, but another number was meant
    assert len(problems("model.ffn.num_experts=[", text="model: {ffn: {router: {top_k: 9}}}")) == 1


DROPPED = "model.ffn: dropped num_experts, router: kind mlp does not have them"


@pytest.mark.parametrize("order", list(permutations(["model.ffn.kind=mlp", "model.ffn.d_ff=512", "model.d_model=32"])))
def test_a_new_kind_drops_the_keys_of_the_old_one_in_any_order(order: tuple[str, ...]) -> None:
    loaded = laid_over(*order)
    assert loaded.recipe.model.ffn == MLP(d_ff=512)
    assert loaded.notices == (DROPPED,)


@pytest.mark.parametrize("order", list(permutations(["model.ffn.kind=mlp", "model.ffn.num_experts=2", "model.ffn.router.top_k=2"])))
def test_keys_that_were_set_are_never_dropped(order: tuple[str, ...]) -> None:
    has = "unknown key of kind mlp, but kind"
    assert sorted(problems(*order)) == [
        f"--set model.ffn.num_experts=2: model.ffn.num_experts: {has} sparse or soft has it (allowed here: kind, d_ff)",
        f"--set model.ffn.router.top_k=2: model.ffn.router: {has} sparse has it (allowed here: kind, d_ff)",
    ]


def test_keys_that_both_kinds_have_stay() -> None:
    loaded = laid_over("model.ffn.kind=soft")
    assert loaded.recipe.model.ffn == Soft(num_experts=4)
    assert loaded.notices == ("model.ffn: dropped router: kind soft does not have it",)


def test_kinds_within_kinds() -> None:
    loaded = laid_over("model.ffn.router.hash_seed=7", "model.ffn.router.kind=hash")
    assert loaded.recipe.model.ffn == Sparse(num_experts=4, router=Hash(hash_seed=7))
    assert loaded.notices == ("model.ffn.router: dropped top_k: kind hash does not have it",)


def test_a_kind_that_the_file_leaves_to_its_default_changes_too() -> None:
    loaded = laid_over("model.ffn.kind=mlp", text="model: {ffn: {num_experts: 4}}")
    assert loaded.recipe.model.ffn == MLP()
    assert loaded.notices == ("model.ffn: dropped num_experts: kind mlp does not have it",)


def test_the_same_kind_drops_nothing() -> None:
    assert laid_over("model.ffn.kind=mlp", "model.ffn.kind=sparse").recipe == laid_over().recipe
    assert laid_over("model.ffn.kind=sparse").notices == ()


def test_an_unknown_kind_drops_nothing_and_is_the_one_problem() -> None:
    assert problems("model.ffn.kind=mpl") == [
        '--set model.ffn.kind=mpl: model.ffn.kind = "mpl": must be one of sparse, mlp, soft; did you mean mlp?'
    ]


def test_a_kind_that_is_no_word_is_a_problem_too() -> None:
    assert problems("model.ffn.kind=[mlp]") == ['--set model.ffn.kind=[mlp]: model.ffn.kind = ["mlp"]: must be one of sparse, mlp, soft']


def test_a_key_that_no_kind_has_is_not_dropped_but_told() -> None:
    text = "model:\n  ffn:\n    kind: sparse\n    num_expertz: 4\n"
    assert problems("model.ffn.kind=mlp", text=text) == ["my.yaml:4: model.ffn.num_expertz: unknown key (allowed here: kind, d_ff)"]


def test_a_mapping_that_is_set_whole_replaces_the_one_of_the_file() -> None:
    loaded = laid_over("model.ffn={kind: mlp}")
    assert loaded.recipe.model.ffn == MLP()
    assert loaded.notices == ()
