"""What can't be resized, with what could; and what is said of the function."""

from __future__ import annotations

import pytest

from moecli.convert.resize.check import recipe_problems, resize_problems
from moecli.convert.resize.departures import departures
from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.shape import resized_feed_forward
from moecli.model.config import GPTConfig
from tests.convert.resize.moe_models import SIGMOID, TOPK, moe_config

SOFT = {"kind": "soft", "mixing": "batch"}
GROUPED = {"num_experts": 8, "router": SIGMOID | {"num_groups": 2, "top_groups": 1}}
HASH = {"router": {"kind": "hash"}}


@pytest.mark.parametrize(
    ("ffn", "options", "message", "allowed"),
    [
        ({"kind": "mlp", "num_experts": None}, ResizeOptions("prune", num_experts=2), "mlp has no experts", "--upcycle"),
        (SOFT, ResizeOptions("merge", num_experts=2), "merge has no meaning for experts that work on mixtures", "prune or regate"),
        (SOFT, ResizeOptions("dense"), "dense has no meaning", "prune or regate"),
        ({"kind": "dense"}, ResizeOptions("add", num_experts=9), "every token has every expert already", "merge"),
        ({"kind": "dense"}, ResizeOptions("split", shards=2), "every token has every expert already", "merge"),
        (HASH, ResizeOptions("prune", num_experts=2), "hash has no row for each expert", "dense or regate"),
        (HASH, ResizeOptions("split", shards=2), "hash has no row for each expert", "dense or regate"),
        ({}, ResizeOptions("prune", num_experts=5), "5 is more than there are", "1 to 4"),
        ({}, ResizeOptions("merge", num_experts=4), "4 leaves nothing to merge of 4", "1 to 3"),
        ({}, ResizeOptions("add", num_experts=4), "4 is not more than there are", "5 or more"),
        ({}, ResizeOptions("split", shards=3), "3 does not cut the 8 hidden units", "2, 4, 8"),
        ({}, ResizeOptions("split", shards=1), "1 does not cut", "2, 4, 8"),
        (GROUPED, ResizeOptions("prune", num_experts=5), "5 experts are no 2 groups of 2", "a multiple of 2, 4 or more"),
        (GROUPED, ResizeOptions("merge", num_experts=2), "2 experts are no 2 groups of 2", "a multiple of 2, 4 or more"),
        (GROUPED, ResizeOptions("add", num_experts=9), "9 experts are no 2 groups", "a multiple of 2"),
        (GROUPED, ResizeOptions("prune", drop_experts=(0, 1)), "groups would lose 2, 0 experts", "as many of each group"),
        (GROUPED, ResizeOptions("prune", drop_experts=(0, 1, 2, 4, 5, 6)), "2 experts are no 2 groups of 2", "4 or more"),
        ({}, ResizeOptions("prune", drop_experts=(4,)), "there is no expert 4", "0 to 3"),
        ({}, ResizeOptions("prune", drop_experts=(1, 1)), "1,1 names an expert twice", "each once"),
        ({}, ResizeOptions("prune", drop_experts=(0, 1, 2, 3)), "leaves no expert", "up to 3 experts"),
        ({}, ResizeOptions("prune", drop_experts={0: (1,)}), "layer 1 is not named", "0, 1"),
        ({}, ResizeOptions("prune", drop_experts={0: (1,), 1: (2,), 5: (0,)}), "layer 5 has no experts", "0, 1"),
        ({}, ResizeOptions("prune", drop_experts={0: (1,), 1: (2, 3)}), "the layers would lose 1 or 2 experts", "as many in every layer"),
    ],
)  # fmt: skip
def test_refusals(ffn, options, message, allowed):
    config = moe_config({}).model_copy(update={"ffn": GPTConfig().ffn}) if ffn.get("kind") == "mlp" else moe_config(ffn)
    [problem] = resize_problems(config, options)
    assert message in problem.what and allowed in problem.allowed


def test_all_problems_are_told():
    config = moe_config({})
    problems = resize_problems(config, ResizeOptions("prune", drop_experts={0: (1, 1), 1: (9,), 7: (0, 1, 2)}))
    assert [problem.what.split()[0] for problem in problems] == ["layer", "the", "1,1", "there"]
    assert len(resize_problems(moe_config(HASH), ResizeOptions("prune", num_experts=9))) == 2


@pytest.mark.parametrize(
    ("ffn", "options"),
    [
        ({}, ResizeOptions("prune", num_experts=1)),
        ({"kind": "dense"}, ResizeOptions("prune", num_experts=2)),
        (SOFT, ResizeOptions("prune", num_experts=2)),
        (SOFT, ResizeOptions("regate")),
        (HASH, ResizeOptions("dense")),
        (GROUPED, ResizeOptions("prune", drop_experts=(0, 1, 4, 5))),
        (GROUPED, ResizeOptions("merge", num_experts=4)),
    ],
)
def test_what_is_possible(ffn, options):
    config = moe_config(ffn)
    assert resize_problems(config, options) == []
    tree, _ = resized_feed_forward(config, options)
    GPTConfig.model_validate(config.model_dump() | {"ffn": tree})


@pytest.mark.parametrize(
    ("router", "num_experts", "changed", "num_notes"),
    [
        (TOPK, 2, {}, 0),
        (TOPK | {"keep_threshold": 0.2}, 1, {"top_k": 1, "normalize_weights": False, "keep_threshold": None}, 2),
        ({"kind": "topk", "top_k": 3}, 2, {"top_k": 2}, 1),
        ({"kind": "noisy_topk", "top_k": 2}, 1, {"top_k": 1}, 1),
        ({"kind": "expert_choice", "experts_per_token": 2.5}, 2, {"experts_per_token": 2.0}, 1),
    ],
)  # fmt: skip
def test_a_choice_of_more_than_there_are_is_lowered_and_told(router, num_experts, changed, num_notes):
    config = moe_config({"router": router})
    tree, notes = resized_feed_forward(config, ResizeOptions("prune", num_experts=num_experts))
    before = config.ffn.router.model_dump(mode="json")
    assert {name: value for name, value in tree["router"].items() if value != before[name]} == changed
    assert len(notes) == num_notes and tree["num_experts"] == num_experts
    GPTConfig.model_validate(config.model_dump() | {"ffn": tree})


def test_a_choice_within_groups_is_lowered_to_what_they_hold():
    """4 of 8 experts in one of 2 groups: with 4 left each group holds 2."""
    config = moe_config({"num_experts": 8, "router": SIGMOID | {"top_k": 4, "num_groups": 2, "top_groups": 1}})
    tree, _ = resized_feed_forward(config, ResizeOptions("prune", num_experts=4))
    assert tree["router"]["top_k"] == 2


@pytest.mark.parametrize(
    ("ffn", "options", "reasons"),
    [
        ({}, ResizeOptions("prune", num_experts=4), []),
        ({}, ResizeOptions("prune", num_experts=3), ["1 of 4 experts"]),
        ({}, ResizeOptions("merge", num_experts=3), ["4 experts of each layer have become 3"]),
        ({}, ResizeOptions("add", num_experts=6), ["copies with noise, 2 in each layer, take tokens from its 4"]),
        ({}, ResizeOptions("dense"), ["one network stands"]),
        ({}, ResizeOptions("regate"), ["the gate begins anew"]),
        ({}, ResizeOptions("split", shards=2), []),
        ({"capacity": {"eval_factor": None}}, ResizeOptions("split", shards=2), []),
        ({"capacity": {"eval_factor": 1.5}}, ResizeOptions("split", shards=2), ["capacity may drop"]),
        (GROUPED, ResizeOptions("split", shards=2), ["best two experts, which are shards of one"]),
    ],
)  # fmt: skip
def test_what_is_said_of_the_function(ffn, options, reasons):
    config = moe_config(ffn)
    tree, _ = resized_feed_forward(config, options)
    expected = GPTConfig.model_validate(config.model_dump() | {"ffn": tree})
    found = departures(config, expected, expected, options)
    assert len(found) == len(reasons) and all(reason in one for reason, one in zip(reasons, found, strict=True))


def test_settings_on_top():
    config, options = moe_config({}), ResizeOptions("split", shards=2)
    tree, _ = resized_feed_forward(config, options)
    expected = GPTConfig.model_validate(config.model_dump() | {"ffn": tree})
    other_k = GPTConfig.model_validate(config.model_dump() | {"ffn": tree | {"router": {"kind": "topk", "top_k": 2}}})
    assert recipe_problems(config, expected, other_k, options) == []
    assert departures(config, expected, other_k, options) == ["settings of the model were changed beside the shape"]
    more = GPTConfig.model_validate(config.model_dump() | {"ffn": tree | {"num_experts": 16}, "d_model": 16})
    problems = recipe_problems(config, expected, more, options)
    assert {problem.field: problem.allowed for problem in problems} == {"d_model": "8", "ffn.num_experts": "8"}
    assert {problem.what for problem in problems} == {"is not for --set to change here"}


@pytest.mark.parametrize(
    ("ffn", "fields"),
    [
        ({"kind": "soft"}, []),
        ({"router": SIGMOID}, []),
        ({"num_experts": 5, "d_expert": 4}, ["ffn.num_experts", "ffn.d_expert"]),
        ({"num_shared_experts": 1}, ["ffn.num_shared_experts"]),
    ],
)
def test_regating_needs_the_same_experts(ffn, fields):
    config, options = moe_config({}), ResizeOptions("regate")
    assert [problem.field for problem in recipe_problems(config, config, moe_config(ffn), options)] == fields
    deeper = moe_config(ffn, num_layers=3)
    assert "num_layers" in [problem.field for problem in recipe_problems(config, config, deeper, options)]
    dense = config.model_copy(update={"ffn": GPTConfig().ffn})
    assert [problem.field for problem in recipe_problems(config, config, dense, options)] == ["ffn.kind"]
