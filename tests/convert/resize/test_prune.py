"""Pruning: what is left computes what the whole did with the logits of the others at minus infinity."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.prune import drawn, highest
from moecli.moe import dense
from moecli.moe.routers import noisy_topk, sigmoid_topk, topk, vmoe_topk
from tests.convert.resize.moe_models import SIGMOID, TOPK, logits, moe_model, resized

SCORED = {"topk": topk, "noisy_topk": noisy_topk, "vmoe_topk": vmoe_topk, "sigmoid_topk": sigmoid_topk}
GROUPED = {"num_experts": 8, "router": SIGMOID | {"num_groups": 2, "top_groups": 1}}
KINDS = {
    "topk": {"router": TOPK},
    "as they are": {"router": TOPK | {"normalize_weights": False}},
    "bias": {"router": TOPK | {"selection_bias": True}},
    "noisy": {"router": {"kind": "noisy_topk", "top_k": 2}},
    "vmoe": {"router": {"kind": "vmoe_topk", "top_k": 2}},
    "sigmoid": {"router": SIGMOID},
    "shared": {"router": TOPK, "num_shared_experts": 1, "shared_gate": True},
    "dense": {"kind": "dense"},
}


@pytest.mark.parametrize("ffn", KINDS.values(), ids=KINDS)
def test_it_is_the_whole_with_the_logits_of_the_others_at_minus_infinity(ffn, monkeypatch):
    model = moe_model(ffn)
    pruned, changes = resized(model, ResizeOptions("prune", drop_experts=(1,)))
    assert [change.made_of for change in changes] == [[[0], [2], [3]]] * 2
    module = dense if ffn.get("kind") == "dense" else SCORED[ffn["router"]["kind"]]
    score = module.float32_logits

    def without(x_BSD, weight_ED):
        logits_TE = score(x_BSD, weight_ED).clone()
        if len(weight_ED) == 4:  # the pruned model has three
            logits_TE[:, 1] = float("-inf")
        return logits_TE

    monkeypatch.setattr(module, "float32_logits", without)
    for block in model.feed_forwards():
        if block.selection_bias_E is not None:
            block.selection_bias_E[1] = float("-inf")  # minus infinity is the probability 0, which a bias could still lift
    torch.testing.assert_close(logits(pruned), logits(model))
    monkeypatch.undo()
    assert not torch.allclose(logits(pruned), logits(moe_model(ffn)), atol=1e-3)


def test_what_stays_is_bit_for_bit_what_it_was_in_each_layer():
    model = moe_model({"router": SIGMOID, "num_shared_experts": 1})
    pruned, changes = resized(model, ResizeOptions("prune", drop_experts={0: (0, 3), 1: (1, 2)}))
    assert [change.made_of for change in changes] == [[[1], [2]], [[0], [3]]]
    for layer, kept in enumerate(([1, 2], [0, 3])):
        old, new = model.blocks[layer].ffn, pruned.blocks[layer].ffn
        assert torch.equal(new.router.weight, old.router.weight[kept])
        assert torch.equal(new.router.selection_bias_E, old.router.selection_bias_E[kept])
        assert torch.equal(new.experts.in_proj, old.experts.in_proj[kept])
        assert torch.equal(new.experts.out_proj, old.experts.out_proj[kept])
        assert torch.equal(new.shared.in_proj.weight, old.shared.in_proj.weight)
        assert torch.equal(pruned.blocks[layer].attention.o_proj.weight, model.blocks[layer].attention.o_proj.weight)


@pytest.mark.parametrize("mixing", ["sequence", "batch"])
def test_experts_on_mixtures_go_with_their_slots(mixing):
    """A soft layer's output without an expert: as if its slots had never been."""
    slots = {"slots_per_expert": 2} if mixing == "sequence" else {"group_size": 2}
    model = moe_model({"kind": "soft", "mixing": mixing} | slots)
    pruned, _ = resized(model, ResizeOptions("prune", drop_experts=(0,)))
    for old, new in zip(model.feed_forwards(), pruned.feed_forwards(), strict=True):
        name = "slot_weight" if mixing == "sequence" else "weight"
        assert torch.equal(getattr(new.mixer, name), getattr(old.mixer, name)[1:])
        assert torch.equal(new.experts.in_proj, old.experts.in_proj[1:])
        if mixing == "sequence":
            assert torch.equal(new.mixer.scale, old.mixer.scale)
    assert torch.isfinite(logits(pruned)).all()


def test_mlp_layers_among_them_stay():
    model = moe_model({"router": TOPK}, moe_layers={"indices": [1]})
    pruned, changes = resized(model, ResizeOptions("prune", num_experts=3))
    assert [change.layer for change in changes] == [1]
    assert torch.equal(pruned.blocks[0].ffn.in_proj.weight, model.blocks[0].ffn.in_proj.weight)


def test_all_kept_is_the_same_model():
    model = moe_model({"router": TOPK})
    pruned, _ = resized(model, ResizeOptions("prune", num_experts=4))
    assert all(torch.equal(tensor, pruned.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_scores_decide():
    # Of [5, 1, 5, 3] the two highest are experts 0 and 2; of three equal ones the first.
    assert highest([5.0, 1.0, 5.0, 3.0], 2) == [0, 2]
    assert highest([1.0, 1.0, 1.0], 2) == [0, 1]
    # Two groups of two, one of each: 1 of {0, 1} and 2 of {2, 3}, though 2 and 3 score higher than both.
    assert highest([0.1, 0.2, 0.9, 0.8], 2, num_groups=2) == [1, 2]
    model = moe_model({"router": TOPK})
    _, by_cost = resized(model, ResizeOptions("prune", num_experts=2, by="ablation"), {0: [0.1, 0.4, 0.2, 0.3], 1: [0.3, -0.1, 0.0, 0.5]})
    assert [change.made_of for change in by_cost] == [[[1], [3]], [[0], [3]]]
    assert by_cost[1].scores == [0.3, -0.1, 0.0, 0.5]
    _, by_load = resized(model, ResizeOptions("prune", num_experts=2))
    for change in by_load:
        assert sum(change.scores) == pytest.approx(1)
        kept = [change.scores[expert] for [expert] in change.made_of]
        assert sum(kept) == pytest.approx(sum(sorted(change.scores)[2:]))


def test_groups_keep_as_many_each():
    pruned, changes = resized(moe_model(GROUPED), ResizeOptions("prune", num_experts=4))
    for change in changes:
        assert [expert // 4 for [expert] in change.made_of] == [0, 0, 1, 1]
    assert pruned.config.ffn.router.num_groups == 2
    logits(pruned)


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(1, 4), size=st.integers(1, 5), kept=st.integers(1, 5), seed=st.integers(0, 1000))
def test_any_draw_keeps_as_many_as_asked_for(groups, size, kept, seed):
    kept = min(kept, size)
    experts = drawn(groups * size, groups * kept, torch.Generator().manual_seed(seed), groups)
    assert experts == sorted(set(experts)) and len(experts) == groups * kept
    assert all(0 <= expert < groups * size for expert in experts)


def test_the_seed_decides_the_draw_and_layers_have_their_own():
    model = moe_model({"router": TOPK, "num_experts": 16})
    options = [ResizeOptions("prune", num_experts=8, by="random", seed=seed) for seed in (0, 0, 1)]
    made_of = [[change.made_of for change in resized(model, one)[1]] for one in options]
    assert made_of[0] == made_of[1] != made_of[2]
    assert made_of[0][0] != made_of[0][1]
