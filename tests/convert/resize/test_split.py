"""Splitting experts: the same function, with any router that keeps shards together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.split import has_ties
from moecli.convert.upcycle_proof import logit_difference
from tests.convert.resize.moe_models import SEQ_LEN, SIGMOID, TOPK, moe_model, resized

ROUTERS = {
    "topk": TOPK,
    "top 1": {"kind": "topk", "top_k": 1},
    "as they are": TOPK | {"normalize_weights": False},
    "bias": TOPK | {"selection_bias": True},
    "noisy": {"kind": "noisy_topk", "top_k": 2},
    "vmoe": {"kind": "vmoe_topk", "top_k": 2},
    "sigmoid": SIGMOID | {"scale": 2.5},
    "sigmoid as they are": SIGMOID | {"normalize_weights": False},
    "groups": SIGMOID | {"num_groups": 2, "top_groups": 1, "group_score": "max"},
    "expert choice": {"kind": "expert_choice", "experts_per_token": 1.5},
}


@pytest.mark.parametrize("router", ROUTERS.values(), ids=ROUTERS)
@pytest.mark.parametrize("shards", [2, 4])
def test_the_logits_stay(router, shards):
    model = moe_model({"router": router})
    narrower, _ = resized(model, ResizeOptions("split", shards=shards))
    assert narrower.config.ffn.num_experts == 4 * shards and narrower.config.ffn.d_expert == 8 // shards
    difference = logit_difference(model, narrower, SEQ_LEN)
    assert difference.is_rounding and difference.largest > 1


def test_shards_by_hand():
    """Width 4 in 2 shards: gate rows 0-3 and up rows 4-7 become {0, 1, 4, 5} and {2, 3, 6, 7}; out columns {0, 1} and {2, 3}, times 2."""
    model = moe_model({"router": TOPK, "d_expert": 4})
    narrower, changes = resized(model, ResizeOptions("split", shards=2))
    old, new = model.blocks[0].ffn, narrower.blocks[0].ffn
    assert changes[0].made_of[:3] == [[0], [0], [1]] and changes[0].output_factors == [2.0] * 8
    assert torch.equal(new.experts.in_proj[3], old.experts.in_proj[1][[2, 3, 6, 7]])
    assert torch.equal(new.experts.out_proj[3], 2 * old.experts.out_proj[1][:, [2, 3]])
    assert torch.equal(new.router.weight[2:4], old.router.weight[[1, 1]])
    assert narrower.config.ffn.router.top_k == 4


@pytest.mark.parametrize(("router", "factor"), [(TOPK, 1 / 2), (SIGMOID, 1)])
def test_the_selection_bias_goes_with_the_scores(router, factor):
    """Softmax probabilities are halved by twice as many experts, sigmoid scores are not."""
    model = moe_model({"router": router | {"selection_bias": True}})
    narrower, _ = resized(model, ResizeOptions("split", shards=2))
    expected = model.blocks[1].ffn.router.selection_bias_E.repeat_interleave(2) * factor
    assert torch.equal(narrower.blocks[1].ffn.router.selection_bias_E, expected)


@settings(max_examples=15, deadline=None)
@given(
    num_experts=st.integers(1, 6), top_k=st.integers(1, 6), shards=st.sampled_from([2, 4, 8]),
    shared=st.booleans(), activation=st.sampled_from(["swiglu", "gelu", "relu2"]),
)  # fmt: skip
def test_any_shape_keeps_its_function(num_experts, top_k, shards, shared, activation):
    router = {"kind": "topk", "top_k": min(top_k, num_experts)}
    model = moe_model({"num_experts": num_experts, "router": router, "num_shared_experts": int(shared)}, activation=activation)
    narrower, _ = resized(model, ResizeOptions("split", shards=shards))
    assert logit_difference(model, narrower, SEQ_LEN).is_rounding


def test_ties():
    model = moe_model({"router": SIGMOID})
    router = model.blocks[0].ffn.router
    assert not has_ties(model.blocks[0].ffn)
    with torch.no_grad():
        router.weight[2] = router.weight[0]
    assert not has_ties(model.blocks[0].ffn)  # their biases differ
    router.selection_bias_E[2] = router.selection_bias_E[0]
    assert has_ties(model.blocks[0].ffn)


def test_noise_rows_set_no_experts_apart():
    moe = moe_model({"router": {"kind": "noisy_topk", "top_k": 2}}).blocks[0].ffn
    with torch.no_grad():
        moe.router.weight[1] = moe.router.weight[0]
    assert not torch.equal(moe.router.noise_weight[1], moe.router.noise_weight[0]) and has_ties(moe)
