"""All problems at once: what hides behind a problem is found, what only follows from one is not told."""

from __future__ import annotations

import pytest

from moecli.config import Config, PositiveInt
from moecli.errors import FieldProblem
from moecli.recipe.check import check
from moecli.recipe.document import Document
from moecli.recipe.problem import InvalidRecipe
from moecli.recipe.yaml_source import read_yaml
from tests.recipe.toy_schema import MLP, Toy


def problems(text: str, schema: type[Config] = Toy) -> list[str]:
    document = Document.from_file(read_yaml(text), "my.yaml")
    with pytest.raises(InvalidRecipe) as caught:
        check(document, schema, "my.yaml")
    assert repr(document.data) == repr(read_yaml(text).data)  # what is taken out is taken out of a copy
    return [str(problem).removeprefix("my.yaml:") for problem in caught.value.problems]


def test_a_sound_document_gives_the_config() -> None:
    document = Document.from_file(read_yaml("model: {ffn: {kind: mlp, d_ff: 3}, num_heads: 2}"), "my.yaml")
    recipe = check(document, Toy, "my.yaml")
    assert recipe.model.ffn == MLP(d_ff=3)
    assert recipe.model.num_heads == 2
    assert document.data == {"model": {"ffn": {"kind": "mlp", "d_ff": 3}, "num_heads": 2}}


def test_an_unknown_key_a_wrong_type_and_two_broken_rules_are_four_lines() -> None:
    text = """\
nam: x
model:
  d_model: 130
  num_heads: 4
  ffn:
    num_experts: 4
    d_expert: "abc"
    router: {top_k: 8}
"""
    # pydantic alone sees lines 1 and 7: with those in the way it runs no rule
    assert problems(text) == [
        "1: nam: unknown key; did you mean name? (allowed here: name, seed, model, data, training)",
        "4: model.num_heads = 4: 4 heads do not divide d_model 130",
        '7: model.ffn.d_expert = "abc": must be a whole number of at least 1, or null',
        "8: model.ffn.router.top_k = 8: 8 experts per token, but there are only 4 (allowed: 1 to 4)",
    ]


def test_a_rule_of_the_outermost_config_is_reached_behind_three_others() -> None:
    text = "model:\n  num_heads: 3\n  ffn: {num_experts: 1}\ntraining: {steps: 1}\ndata: {files: [a, b]}\nseed: x\n"
    assert [line.split(":")[1].split("=")[0].strip() for line in problems(text)] == [
        "model.num_heads",
        "model.ffn.router.top_k",
        "data.files",
        "seed",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "model: {ffn: {num_experts: x, router: {top_k: 9}}}",  # 9 of how many is not known
        "model: {ffn: {num_experts: 4, router: {top_k: x}}}",
        "model: {ffn: {num_experts: 1, router: {top_k: 0}}}",  # the default, 2, would be too many as well
        "model: {ffn: {num_expert: 16, router: {top_k: 9}}}",  # the default is 8, but 16 were meant
        "model: {ffn: {num_experts: 4, router: {kind: topq, top_k: 9}}}",
        "model: {ffn: {num_experts: 1, router: 3}}",
        "model: {ffn: {num_experts: 1, routr: {top_k: 1}}}",
        "model: {d_model: 1.5, num_heads: 3}",
        "modle: {d_model: 3}\nmodel: {num_heads: 1.5}",
    ],
)
def test_what_follows_from_a_broken_value_is_not_told(text: str) -> None:
    assert len(problems(text)) == 1 + ("modle" in text)
    assert "experts per token" not in str(problems(text))
    assert "do not divide" not in str(problems(text))


def test_a_rule_still_counts_beside_an_unknown_key_that_could_be_anything() -> None:
    assert len(problems("model: {xyz: 1, num_heads: 3, ffn: {abc: 1, num_experts: 1, router: {top_k: 2}}}")) == 4


def test_a_rule_is_shown_where_something_was_written() -> None:
    # top_k is a default and stands nowhere; num_experts, in line 4, is what the writer can change
    assert problems("model:\n  ffn:\n    kind: sparse\n    num_experts: 1\n") == [
        "4: model.ffn.router.top_k: 2 experts per token, but there are only 1 (allowed: 1 to 1)"
    ]


def test_flaws_of_the_text_are_among_the_problems() -> None:
    assert problems("seed: 1e999\nname: a\nname: b\nmodel: {3: x, num_heads: 3}\ndata: {files: [!odd a, 3]}\ntraining: {steps: 0}") == [
        "1: seed: the number is too large",
        "3: name: given twice, in line 2 and in line 3",
        '4: model.3: a key must be text: write it in quotes, "3"',
        "4: model.num_heads = 3: 3 heads do not divide d_model 128",
        "5: data.files[0]: the YAML tag !odd has no meaning in a recipe",
        "6: training.steps = 0: must be a whole number of at least 1",
    ]


def test_a_flaw_at_a_kind_hides_the_keys_of_that_kind() -> None:
    assert problems("model: {ffn: {kind: !odd mlp, d_ff: 3}}") == ["1: model.ffn.kind: the YAML tag !odd has no meaning in a recipe"]


def test_every_item_of_a_list_is_checked() -> None:
    assert problems("model:\n  routers:\n  - {top_k: 0}\n  - {kind: hash, top_k: 1}\n  - {kind: odd}\n  - 3\n") == [
        "3: model.routers[0].top_k = 0: must be a whole number of at least 1",
        "4: model.routers[1].top_k: unknown key of kind hash, but kind topk has it (allowed here: kind, hash_seed)",
        '5: model.routers[2].kind = "odd": must be one of topk, hash',
        "6: model.routers[3] = 3: must be a mapping with `kind`: one of topk, hash",
    ]


class Inner(Config):
    needed: PositiveInt
    other: int = 0

    def problems(self) -> list[FieldProblem]:
        return [FieldProblem("needed", "is odd", involves=("other",))] if self.needed % 2 else []


class Outer(Config):
    inner: Inner = Inner(needed=2)
    also_needed: Inner
    a: int = 1
    b: int = 1

    def problems(self) -> list[FieldProblem]:
        return [FieldProblem("a", "must be b", involves=("b",))] if self.a != self.b else []


def test_required_keys() -> None:
    # inner has a default and can be replaced by it; for also_needed there is nothing to check the rule of Outer with
    assert problems("inner:\n  other: x\nalso_needed: {needed: 3}\na: 2\n", Outer) == [
        "1: inner.needed: is missing; it must be a whole number of at least 1",
        '2: inner.other = "x": must be a whole number',
        "3: also_needed.needed = 3: is odd",
    ]
    assert problems("inner: {}\nalso_needed: {needed: 2}\na: 2\n", Outer) == [
        "1: inner.needed: is missing; it must be a whole number of at least 1",
        "3: a = 2: must be b",
    ]
    assert problems("a: 1\n", Outer) == ["1: also_needed: is missing; it must be a mapping of keys to values"]


class Narrow(Config):
    inner: Inner = Inner(needed=2)
    limit: int = 10
    size: int = 10

    def problems(self) -> list[FieldProblem]:
        problems = []
        if self.inner.other > self.limit:
            problems.append(FieldProblem("limit", "is below inner.other", involves=("inner.other",)))
        if self.size == 0:
            problems.append(FieldProblem("size", "is too small for inner", involves=("inner",)))
        return problems


class Wide(Config):
    narrow: Narrow = Narrow()
    width: int = 1

    def problems(self) -> list[FieldProblem]:
        return [FieldProblem("width", "is above narrow.size", involves=("narrow.size",))] if self.width > self.narrow.size else []


def test_no_more_is_taken_out_than_has_to_be() -> None:
    # narrow.limit is a default: inner.other goes, narrow stays, and with it what the rule about width reads
    assert problems("narrow:\n  inner: {needed: 2, other: 11}\n  size: 5\nwidth: 7\n", Wide) == [
        "2: narrow.limit: is below inner.other",
        "4: width = 7: is above narrow.size",
    ]


def test_a_rule_about_a_whole_mapping_waits_until_the_mapping_is_sound() -> None:
    assert problems("inner: {needed: 2, other: x}\nsize: 0\n", Narrow) == ['1: inner.other = "x": must be a whole number']
    assert problems("inner: {needed: 2, other: 1}\nsize: 0\n", Narrow) == ["2: size = 0: is too small for inner"]


class Hopeless(Config):
    """Its default breaks its own rule: nothing that is taken out helps."""

    a: int = 1
    inner: Inner | None = None

    def problems(self) -> list[FieldProblem]:
        return [FieldProblem("a", "is never right", involves=("inner.needed",))]


def test_a_rule_that_no_default_satisfies_is_told_once() -> None:
    assert problems("a: 3\ninner: {needed: 2}\n", Hopeless) == ["1: a = 3: is never right"]
