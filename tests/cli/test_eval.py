"""`moecli eval` as a program: the table of a sweep, its streams, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

LEAKY_WHEN_TIGHT = "model.ffn.capacity={factor: 2.0, eval_factor: 2.0, order: choice}"


@pytest.fixture
def trained(tiny_recipe, inside) -> None:
    assert inside("train", "tiny.yaml", "--out", "run")[0] == 0


def table_rows(out: str) -> list[list[str]]:
    lines = out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("top-k"))
    return [line.split() for line in lines[first + 1 :] if not line.startswith("note:")]


def test_a_sweep_is_a_row_per_combination_with_the_trained_one_marked(trained, inside):
    code, out, err = inside("eval", "run", "--top-k", "1,4", "--top-k", "2", "--capacity", "none,0.5")
    assert code == 0
    rows = table_rows(out)
    assert [row[:2] for row in rows] == [["1", "0.5"], ["1", "none"], ["2", "0.5"], ["*2", "none"], ["4", "0.5"], ["4", "none"]]
    by_json = json.loads(inside("eval", "run", "--top-k", "1,2,4", "--capacity", "none,0.5", "--json")[1])
    assert [row[2] for row in rows] == [f"{row['loss']:.4f}" for row in by_json["sweep"]]
    assert rows[0][3] == f"{by_json['sweep'][0]['loss'] - by_json['loss']:+.4f}"
    assert f"{by_json['loss']:.6f} nats/token" in out
    assert "evaluating 6 settings" in err and "evaluating" not in out
    assert max(len(line) for line in out.splitlines() if "/" not in line or "bits" in line) <= 80


def test_none_is_taken_as_python_writes_it(trained, inside):
    code, out, errors = inside("eval", "run", "--capacity", "None,1.0,NONE")
    assert code == 0, errors
    assert [row[1] for row in table_rows(out)] == ["1", "none"]


def test_values_that_cannot_be_read_are_told_where_there_is_no_run_too(inside):
    code, out, errors = inside("eval", "nowhere", "--top-k", "x,2")
    assert (code, out) == (2, "") and "not 'x'" in " ".join(errors.replace("│", " ").split())


def test_json_of_a_sweep_is_one_object(trained, inside):
    code, out, _ = inside("eval", "run", "--capacity", "1.25", "--json")
    assert (code, out.count("\n")) == (0, 1)
    content = json.loads(out)
    assert [(row["top_k"], row["capacity_factor"], row["is_trained"]) for row in content["sweep"]] == [(2, 1.25, False), (2, None, True)]
    assert content["sweep"][1]["loss"] == content["loss"]
    assert content["sweep"][0].keys() == {
        "top_k", "capacity_factor", "is_trained", "loss", "perplexity", "bits_per_byte", "cv_load", "max_violation", "dead_experts",
        "dropped_fraction", "leaks_future", "mixes_rows",
    }  # fmt: skip
    assert "sweep" not in json.loads(inside("eval", "run", "--json")[1])


def test_a_setting_that_sees_the_future_is_marked_and_said(tiny_recipe, inside):
    assert inside("train", "tiny.yaml", "--out", "run", "--set", LEAKY_WHEN_TIGHT)[0] == 0
    out = inside("eval", "run", "--capacity", "1,none")[1]
    assert [row[0] for row in table_rows(out)] == ["!2", "*2", "2"]
    assert "note: ! top-k 2 with capacity 1: this model sees its future" in out
    assert "note:" not in inside("eval", "run")[1]


def test_a_text_of_unknown_characters_is_said(tiny_recipe, inside):
    assert inside("train", "tiny.yaml", "--out", "run", "--set", "data.tokenizer={kind: char}")[0] == 0
    Path("other.txt").write_text("a text ßßß", encoding="utf-8")
    # 10 characters and two ends of text.
    assert "note: 25.00% of the tokens are unknown to the tokenizer" in inside("eval", "run", "--text", "other.txt")[1]
    assert "note:" not in inside("eval", "run")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--top-k", "two,0,3", "--capacity", "-1,none"), ("'two', '0'", "'-1'", "--top-k", "--capacity")),
        (("--top-k", ""), ("not ''",)),
        (("--capacity", "inf"), ("'inf'",)),
        (("--capacity", "nan"), ("'nan'",)),
        (("--top-k", "\x1b[31m"), ("\\x1b[31m",)),
        (("--top-k", "17,1.5,x", "--capacity", "y"), ("not 'x'", "--top-k 17: more experts", "--top-k 1.5: the topk router", "not 'y'")),
        (("--top-k", "5,1.5"), ("--top-k 5: more experts per token than there are experts (4)", "--top-k 1.5: the topk router")),
    ],
)
def test_bad_values_are_all_told_as_they_were_typed(trained, inside, arguments, words):
    code, out, errors = inside("eval", "run", *arguments)
    unbroken = " ".join(errors.replace("│", " ").split())
    assert code == 2 and out == ""
    assert all(word in unbroken for word in words), unbroken
    assert "\x1b" not in errors and "Traceback" not in errors
