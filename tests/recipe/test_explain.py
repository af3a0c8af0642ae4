"""Every error that pydantic can find in a schema, as the reader gets it."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from annotated_types import Predicate
from pydantic import AfterValidator, ValidationError
from pydantic_core import PydanticCustomError

from moecli.config import Config
from moecli.errors import FieldProblem
from moecli.recipe.explain import Finding, explain
from tests.recipe.toy_schema import Toy


def findings(data: Any, schema: type[Config] = Toy) -> list[Finding]:
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(data)
    return explain(caught.value, schema, data)


@pytest.mark.parametrize(
    ("data", "path", "what"),
    [
        ({"name": 3}, ("name",), "must be text"),
        ({"seed": "1"}, ("seed",), "must be a whole number"),
        ({"seed": True}, ("seed",), "must be a whole number"),
        ({"seed": 1.5}, ("seed",), "must be a whole number"),
        ({"seed": 3.0}, ("seed",), "must be a whole number; write 3"),
        ({"seed": None}, ("seed",), "must be a whole number"),
        ({"model": None}, ("model",), "must be a mapping of keys to values"),
        ({"model": [1]}, ("model",), "must be a mapping of keys to values"),
        ({"model": {"d_model": 0}}, ("model", "d_model"), "must be a whole number of at least 1"),
        ({"model": {"d_model": 10**40}}, ("model", "d_model"), "must be a whole number from 1 to 2147483647"),
        ({"model": {"ffn": {"d_expert": "x"}}}, ("model", "ffn", "d_expert"), "must be a whole number of at least 1, or null"),
        ({"model": {"layers": "some"}}, ("model", "layers"), 'must be "all" or a list, each item a whole number of at least 0'),
        ({"model": {"layers": [1, "x"]}}, ("model", "layers"), 'must be "all" or a list, each item a whole number of at least 0'),
        ({"model": {"routers": [{"top_k": 0}]}}, ("model", "routers", 0, "top_k"), "must be a whole number of at least 1"),
        ({"data": {"files": "x"}}, ("data", "files"), "must be a list, each item text"),
        ({"data": {"files": ["x", 1]}}, ("data", "files", 1), "must be text"),
        ({"data": {"shape": "x"}}, ("data", "shape"), "must be a list, each item a whole number"),
        ({"data": {"labels": []}}, ("data", "labels"), "must be a mapping, each value a whole number"),
        ({"data": {"labels": {"a b": "x"}}}, ("data", "labels", "a b"), "must be a whole number"),
        ({"data": {"seq_len": 12}}, ("data", "seq_len"), "must be a whole number divisible by 8"),
        ({"data": {"tag": ""}}, ("data", "tag"), "must be text of at least 1 and at most 8 characters that matches ^[a-z]*$"),
        ({"data": {"extra": {}}}, ("data", "extra", "path"), "is missing; it must be text"),
        ({"training": {"learning_rate": 0}}, ("training", "learning_rate"), "must be a number above 0"),
        ({"training": {"learning_rate": float("nan")}}, ("training", "learning_rate"), "must be a finite number above 0"),
        ({"training": {"dropout": 1.5}}, ("training", "dropout"), "must be a number from 0 to 1"),
        ({"training": {"dropout": True}}, ("training", "dropout"), "must be a number from 0 to 1"),
        ({"training": {"compile": "no"}}, ("training", "compile"), "must be true or false"),
        ({"training": {"compile": 1}}, ("training", "compile"), "must be true or false"),
        ({"training": {"optimizer": "adam"}}, ("training", "optimizer"), "must be one of adamw, muon; did you mean adamw?"),
        ({"training": {"optimizer": {}}}, ("training", "optimizer"), "must be one of adamw, muon"),
        ({"training": {"clip": "x"}}, ("training", "clip"), "must be a number above 0 and at most 10 or true or false, or null"),
        ({"model": {"ffn": "mlp"}}, ("model", "ffn"), "must be a mapping with `kind`: one of sparse, mlp, soft"),
        ({"model": {"ffn": {"kind": "spars"}}}, ("model", "ffn", "kind"), "must be one of sparse, mlp, soft; did you mean sparse?"),
        ({"model": {"ffn": {"kind": 3}}}, ("model", "ffn", "kind"), "must be one of sparse, mlp, soft"),
        ({"model": {"ffn": {"kind": None}}}, ("model", "ffn", "kind"), "must be one of sparse, mlp, soft"),
        ({"model": {"ffn": {"kind": ["mlp"]}}}, ("model", "ffn", "kind"), "must be one of sparse, mlp, soft"),
    ],
)
def test_one_wrong_value_is_one_finding(data: Any, path: tuple[str, ...], what: str) -> None:
    assert [(finding.path, finding.what) for finding in findings(data)] == [(path, what)]


SPARSE_KEYS = "(allowed here: kind, num_experts, d_expert, router)"


@pytest.mark.parametrize(
    ("data", "path", "what", "meant"),
    [
        (
            {"model": {"ffn": {"num_expert": 4}}},
            ("model", "ffn", "num_expert"),
            f"unknown key; did you mean num_experts? {SPARSE_KEYS}",
            ("model", "ffn", "num_experts"),
        ),
        (  # num_experts is there as well, so this is not it
            {"model": {"ffn": {"num_expert": 4, "num_experts": 4}}},
            ("model", "ffn", "num_expert"),
            f"unknown key; did you mean num_experts? {SPARSE_KEYS}",
            (),
        ),
        (
            {"model": {"ffn": {"top_k": 4}}},
            ("model", "ffn", "top_k"),
            f"unknown key; did you mean model.ffn.router.top_k? {SPARSE_KEYS}",
            ("model", "ffn", "router", "top_k"),
        ),
        (
            {"model": {"ffn": {"d_ff": 4}}},
            ("model", "ffn", "d_ff"),
            f"unknown key of kind sparse, but kind mlp has it {SPARSE_KEYS}",
            (),
        ),
        (
            {"model": {"ffn": {"kind": "mlp", "num_experts": 4}}},
            ("model", "ffn", "num_experts"),
            "unknown key of kind mlp, but kind sparse or soft has it (allowed here: kind, d_ff)",
            (),
        ),
        (  # a key with the name of a kind: pydantic puts the kind into its path too
            {"model": {"ffn": {"kind": "mlp", "mlp": {"mlp": 4}}}},
            ("model", "ffn", "mlp"),
            "unknown key (allowed here: kind, d_ff)",
            (),
        ),
        (  # there is a kind in two places, so there is no telling
            {"training": {"kind": "x"}},
            ("training", "kind"),
            "unknown key (allowed here: steps, learning_rate, dropout, compile, optimizer, clip)",
            (),
        ),
        ({"xyz": 1}, ("xyz",), "unknown key (allowed here: name, seed, model, data, training)", ()),
        ({"": 1}, ("",), "unknown key (allowed here: name, seed, model, data, training)", ()),
    ],
)
def test_unknown_keys(data: Any, path: tuple[str, ...], what: str, meant: tuple[str, ...]) -> None:
    assert findings(data) == [Finding(path, what, shows_value=False, meant=meant)]


def test_a_broken_rule_reads_its_fields() -> None:
    [finding] = findings({"model": {"ffn": {"num_experts": 2, "router": {"top_k": 3}}}})
    assert finding == Finding(
        ("model", "ffn", "router", "top_k"),
        "3 experts per token, but there are only 2 (allowed: 1 to 2)",
        shows_value=True,
        reads=(("model", "ffn", "router", "top_k"), ("model", "ffn", "num_experts")),
    )


def test_a_rule_about_a_default_shows_no_value() -> None:
    [finding] = findings({"model": {"ffn": {"num_experts": 1}}})
    assert finding.path == ("model", "ffn", "router", "top_k")
    assert not finding.shows_value


def _refuse(value: int) -> int:
    raise ValueError(f"{value} is\nnot my number")


def _refuse_in_fields(value: int) -> int:
    raise FieldProblem("", "is not allowed\ntoday", allowed="tomorrow")


def _refuse_in_words_of_pydantic(value: int) -> int:
    raise PydanticCustomError("odd_error", "Input should be odd")


class Odd(Config):
    own: Annotated[int, AfterValidator(_refuse)] = 0
    field: Annotated[int, AfterValidator(_refuse_in_fields)] = 0
    custom: Annotated[int, AfterValidator(_refuse_in_words_of_pydantic)] = 0
    predicate: Annotated[int, Predicate(lambda value: value > 7)] = 8
    union: Toy | bool = False
    nothing: None = None


@pytest.mark.parametrize(
    ("data", "path", "what"),
    [
        ({"own": 3}, ("own",), "3 is\\nnot my number"),
        ({"field": 3}, ("field",), "is not allowed\\ntoday (allowed: tomorrow)"),
        ({"custom": 3}, ("custom",), "must be a whole number"),
        ({"predicate": 3}, ("predicate",), "must be a whole number"),
        ({"union": {"nam": 3}}, ("union",), "must be a mapping of keys to values or true or false"),
        ({"nothing": 3}, ("nothing",), "must be null"),
        (3, (), "must be a mapping of keys to values"),
    ],
)
def test_what_no_schema_of_ours_does_yet_reads_cleanly_too(data: Any, path: tuple[str, ...], what: str) -> None:
    assert [(finding.path, finding.what) for finding in findings(data, Odd)] == [(path, what)]
