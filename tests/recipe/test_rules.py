"""Impossible combinations are refused by the recipe check, all at once, each with the reason and what to write instead."""

from __future__ import annotations

import pytest

from moecli.errors import RecipeError
from moecli.recipe.load import parse_recipe

REFUSED = {
    # what is written: (key path, reason, what to write instead)
    "top_k beyond the experts": (
        "model: {ffn: {kind: sparse, num_experts: 4, router: {kind: vmoe_topk, top_k: 5}}}",
        "model.ffn.router.top_k", "more experts per token than there are experts", "1 to num_experts (4)",
    ),
    "groups that leave too few experts": (
        "model: {ffn: {kind: sparse, num_experts: 8, router: {kind: sigmoid_topk, top_k: 3, num_groups: 4, top_groups: 1}}}",
        "model.ffn.router.top_groups", "too few for top_k 3", "2 or more",
    ),
    "groups that don't divide": (
        "model: {ffn: {kind: sparse, num_experts: 8, router: {kind: sigmoid_topk, num_groups: 3, top_groups: 2}}}",
        "model.ffn.router.num_groups", "does not divide num_experts (8)", "a divisor of num_experts",
    ),
    "groups of one expert": (
        "model: {ffn: {kind: sparse, num_experts: 4, router: {kind: sigmoid_topk, num_groups: 4, top_groups: 2}}}",
        "model.ffn.router.num_groups", "have no two best", "group_score: max",
    ),
    "more groups than there are": (
        "model: {ffn: {kind: sparse, num_experts: 8, router: {kind: sigmoid_topk, num_groups: 2, top_groups: 3}}}",
        "model.ffn.router.top_groups", "more groups per token than there are groups", "1 to num_groups (2)",
    ),
    "a toss without a second choice": (
        "model: {ffn: {kind: sparse, router: {kind: topk, top_k: 1, keep_threshold: 0.5}}}",
        "model.ffn.router.keep_threshold", "no choice after the first", "null, or top_k of 2 or more",
    ),
    "noise that teaches nothing": (
        "model: {ffn: {kind: sparse, router: {kind: noisy_topk, top_k: 1}}}",
        "model.ffn.router.top_k", "learn nothing", "2 to num_experts (8)",
    ),
    "capacity for a router without drops": (
        "objective: masked-lm\nmodel: {ffn: {kind: sparse, router: {kind: expert_choice}, capacity: {factor: 1.0}}}",
        "model.ffn.capacity", "a capacity has nothing to limit", "null with this router",
    ),
    "expert choice beyond the experts": (
        "objective: masked-lm\nmodel: {ffn: {kind: sparse, num_experts: 2, router: {kind: expert_choice, experts_per_token: 2.5}}}",
        "model.ffn.router.experts_per_token", "more experts per token than there are experts", "up to num_experts (2)",
    ),
    "a micro-batch that does not": (
        "model: {ffn: {kind: soft, mixing: batch, group_size: 8}}\ntraining: {batch_size: 16, gradient_accumulation: 4}",
        "model.ffn.group_size", "don't divide training.batch_size / gradient_accumulation (4)", "a divisor of 4",
    ),
    "an evaluation batch that does not": (
        "model: {ffn: {kind: soft, mixing: batch, num_experts: 16}}\nevaluation: {batch_size: 24}",
        "model.ffn", "groups of 16 sequences don't divide evaluation.batch_size (24)", "a divisor of 8",
    ),
    "expert choice over too few sequences": (
        "model: {ffn: {kind: sparse, router: {kind: expert_choice, pool: batch}}}\ntraining: {batch_size: 2}",
        "model.ffn.router", "leaves each of 8 experts 0.5 of training.batch_size (2)", "a whole number",
    ),
    "expert choice of less than a token": (
        "objective: masked-lm\ndata: {seq_len: 16}\nmodel: {ffn: {kind: sparse, num_experts: 64, router: {kind: expert_choice}}}",
        "model.ffn.router", "leaves each of 64 experts 0.5 of data.seq_len (16)", "1 or more",
    ),
    "importance of what can't learn": (
        "model: {ffn: {kind: sparse, router: {kind: hash}}}\ntraining: {importance_loss: 0.1}",
        "training.importance_loss", "no routing that could learn", "a router that learns",
    ),
    "noise that divides by nothing": (
        "model: {ffn: {kind: sparse, router: {kind: vmoe_topk, noise_std: 1.0e-9}}}",
        "model.ffn.router.noise_std", "the load estimate divides by it", "0, or 0.001 or more",
    ),
    "slots over a batch": (
        "model: {ffn: {kind: soft, mixing: batch, slots_per_expert: 2}}",
        "model.ffn.slots_per_expert", "slots hold mixtures of a sequence", "mixing: sequence",
    ),
    "groups over a sequence": (
        "objective: masked-lm\nmodel: {ffn: {kind: soft, group_size: 2}}",
        "model.ffn.group_size", "mixed over the batch alone", "mixing: batch",
    ),
    "sequence mixing in a causal model": (
        "model: {ffn: {kind: soft}}",
        "model.ffn", "lets a token see its own future", "mixing: batch (Mixture of Tokens)",
    ),
    "expert choice in a causal model": (
        "model: {ffn: {kind: sparse, router: {kind: expert_choice}}}",
        "model.ffn.router", "lets a token see its own future", "pool: batch",
    ),
    "first choices first in a causal model": (
        "model: {ffn: {kind: sparse, capacity: {order: choice}}}",
        "model.ffn.capacity.order", "lets a token see its own future", "order: token",
    ),
    "priority in a causal model": (
        "model: {ffn: {kind: sparse, router: {top_k: 1}, capacity: {order: priority}}}",
        "model.ffn.capacity.order", "lets a token see its own future", "order: token",
    ),
    "a bias update without a bias": (
        "model: {ffn: {kind: sparse}}\ntraining: {bias_update: {rate: 0.001}}",
        "training.bias_update", "no selection bias", "selection_bias: true",
    ),
    "a bias update without a router": (
        "model: {ffn: {kind: mlp}}\ntraining: {bias_update: {rate: 0.001}}",
        "training.bias_update", "no selection bias", "sigmoid_topk",
    ),
    "a load loss without noise": (
        "model: {ffn: {kind: sparse}}\ntraining: {load_loss: 0.1}",
        "training.load_loss", "no noise", "noisy_topk",
    ),
    "a load loss where all experts are chosen": (
        "model: {ffn: {kind: sparse, num_experts: 4, router: {kind: noisy_topk, top_k: 4}}}\ntraining: {load_loss: 0.1}",
        "training.load_loss", "chooses all experts", "top_k less than num_experts",
    ),
    "a load loss with the noise turned off": (
        "model: {ffn: {kind: sparse, router: {kind: vmoe_topk, noise_std: 0.0}}}\ntraining: {load_loss: 0.1}",
        "training.load_loss", "no noise", "noise_std above 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_impossible_combination_is_refused_with_the_reason_and_what_to_write(name):
    text, key, reason, instead = REFUSED[name]
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text + "\n", "my.yaml")
    message = str(caught.value)
    assert "problems" not in message, "one thing is wrong here"
    for part in ("my.yaml:", key, reason, instead):
        assert part in message


def test_groups_that_divide_every_batch_are_accepted():
    text = "model: {ffn: {kind: soft, mixing: batch, group_size: 6}}\ntraining: {batch_size: 12}\nevaluation: {batch_size: 6}\n"
    recipe = parse_recipe(text, "my.yaml").recipe
    assert recipe.mixes_rows and not recipe.leaks_future


def test_all_of_them_are_told_at_once():
    text = """\
model:
  ffn:
    kind: sparse
    num_experts: 8
    router: {kind: topk, top_k: 2}
    capacity: {order: choice, group: batch}
    shared_gate: true
training:
  load_loss: 0.1
  bias_update: {rule: sign}
  batch_size: 5
  gradient_accumulation: 2
"""
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "my.yaml")
    message = str(caught.value)
    assert "5 problems" in message
    for line, key in (
        (6, "model.ffn.capacity.order"), (7, "model.ffn.shared_gate"), (9, "training.load_loss"), (10, "training.bias_update"),
        (12, "training.gradient_accumulation"),
    ):  # fmt: skip
        assert f"my.yaml:{line}: {key}" in message


@pytest.mark.parametrize(
    "text",
    [
        "model: {ffn: {kind: sparse, router: {kind: expert_choice}}}",
        "model: {ffn: {kind: soft}}",
        "model: {ffn: {kind: sparse, capacity: {order: priority}}}",
    ],
)
def test_a_leak_is_accepted_where_it_was_asked_for_or_has_its_home(text):
    assert parse_recipe(f"allow_future_leak: true\n{text}\n", "my.yaml").recipe.leaks_future
    assert not parse_recipe(f"objective: masked-lm\n{text}\n", "my.yaml").recipe.model.is_causal
