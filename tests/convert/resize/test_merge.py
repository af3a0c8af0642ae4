"""Merging experts: who is alike, in what order hidden units are added up, and that nothing else is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.convert.resize.average import average, matching_units, shares_of
from moecli.convert.resize.merge import alike
from moecli.convert.resize.options import LayerStatistics, ResizeOptions
from moecli.convert.resize.statistics import measure
from tests.convert.resize.moe_models import SIGMOID, TOPK, logits, moe_model, random_ids, resized, same_experts


def statistics(load: list[float], logits_TE: list[list[float]]) -> LayerStatistics:
    logits = torch.tensor(logits_TE, dtype=torch.float64)
    load_E = torch.tensor(load, dtype=torch.float64)
    return LayerStatistics(load_E, load_E, logits.T @ logits / len(logits), 1.0)


def test_the_most_alike_become_one_and_then_the_next():
    # Columns are experts: 0 and 2 point the same way (cosine 1), 1 is at right angles to both, 3 is opposite to 0.
    layer = statistics([0.1, 0.2, 0.3, 0.4], [[1, 0, 2, -1], [0, 1, 0, 0]])
    assert alike(layer, 3) == [[0, 2], [1], [3]]
    # Then 1 and {0, 2} are at 0, as are 1 and 3; the first pair of equals is taken.
    assert alike(layer, 2) == [[0, 1, 2], [3]]
    assert alike(layer, 1) == [[0, 1, 2, 3]]


def test_a_merged_expert_is_judged_by_its_members_mean():
    # The columns (1, 0) and (1, 0.9) are the most alike: cosine 1 / 1.345 = 0.74, where (1, 0.9) and (0, 1) have 0.9 / 1.345 = 0.67.
    # Their mean with shares 0.9 and 0.1 is (1, 0.09): cosine 0.09 with (0, 1), which has 0.2 / 1.02 = 0.196 with (-1, 0.2).
    rows = [[1, 1, -1, 0], [0, 0.9, 0.2, 1]]
    assert alike(statistics([0.9, 0.1, 0.5, 0.5], rows), 2) == [[0, 1], [2, 3]]
    # With the shares the other way round it is (1, 0.81): cosine 0.81 / 1.287 = 0.63.
    assert alike(statistics([0.1, 0.9, 0.5, 0.5], rows), 2) == [[0, 1, 3], [2]]


def test_groups_merge_within():
    # 0 and 2 are the same, and in different groups of two.
    layer = statistics([0.25] * 4, [[1, 0, 1, 0], [0, 1, 0, -1]])
    assert alike(layer, 2, num_groups=2) == [[0, 1], [2, 3]]


@settings(max_examples=30, deadline=None)
@given(groups=st.integers(1, 3), size=st.integers(1, 4), left=st.integers(1, 4), seed=st.integers(0, 1000))
def test_every_expert_goes_into_one_place(groups, size, left, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, groups * size, generator=generator).tolist()
    left = min(left, size)
    merged = alike(statistics(torch.rand(groups * size, generator=generator).tolist(), rows), groups * left, groups)
    assert len(merged) == groups * left
    assert sorted(expert for members in merged for expert in members) == list(range(groups * size))
    assert all(len({expert // size for expert in members}) == 1 for members in merged)


def test_the_mean_by_hand():
    """Two experts of two hidden units, gate and up of width 1: the second has its units the other way round."""
    model = moe_model({"num_experts": 2, "d_expert": 2, "router": TOPK})
    experts = model.blocks[0].ffn.experts
    with torch.no_grad():
        experts.in_proj.zero_()
        experts.out_proj.zero_()
        # Column 0 holds the rows gate 0, gate 1, up 0, up 1.
        experts.in_proj[0, :, 0] = torch.tensor([1.0, 5.0, 2.0, 6.0])
        experts.in_proj[1, :, 0] = torch.tensor([7.0, 1.0, 6.0, 4.0])
        experts.out_proj[0, 0] = torch.tensor([1.0, 3.0])
        experts.out_proj[1, 0] = torch.tensor([5.0, 3.0])
    # As they are 1 * 7 + 5 * 1 + 2 * 6 + 6 * 4 + 1 * 5 + 3 * 3 = 62; exchanged 1 * 1 + 5 * 7 + 2 * 4 + 6 * 6 + 1 * 3 + 3 * 5 = 98.
    assert matching_units(experts, 0, 1).tolist() == [1, 0]
    in_FD, out_DH = average(experts, [0, 1], [0.75, 0.25])
    # 0.75 * (1, 5, 2, 6) + 0.25 * (1, 7, 4, 6), and 0.75 * (1, 3) + 0.25 * (3, 5).
    assert in_FD[:, 0].tolist() == [1.0, 5.5, 2.5, 6.0]
    assert out_DH[0].tolist() == [1.5, 3.5]


def test_shares_of_experts_that_nobody_uses_are_even():
    assert shares_of([0.2, 0.0, 0.6], [0, 2]) == pytest.approx([0.25, 0.75])
    assert shares_of([0.0, 0.0, 1.0], [0, 1]) == [0.5, 0.5]


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
def test_merging_one_network_in_other_arrangements_gives_that_network(activation):
    """With weights that are divided by their sum the router has no say, so the function stays too."""
    model = same_experts(moe_model({"router": TOPK}, activation=activation))
    merged, changes = resized(model, ResizeOptions("merge", num_experts=2))
    assert sorted(expert for members in changes[0].made_of for expert in members) == [0, 1, 2, 3]
    for change in changes:
        old, new = (one.blocks[change.layer].ffn.experts for one in (model, merged))
        for place, members in enumerate(change.made_of):
            heaviest = max(members, key=lambda expert: change.scores[expert])
            torch.testing.assert_close(new.in_proj[place], old.in_proj[heaviest])
            torch.testing.assert_close(new.out_proj[place], old.out_proj[heaviest])
    torch.testing.assert_close(logits(merged), logits(model))


def test_rows_and_biases_are_the_means_of_their_members():
    model = moe_model({"router": SIGMOID, "num_shared_experts": 1})
    merged, changes = resized(model, ResizeOptions("merge", num_experts=2))
    for change in changes:
        old, new = model.blocks[change.layer].ffn, merged.blocks[change.layer].ffn
        for place, members in enumerate(change.made_of):
            shares = torch.tensor(shares_of(change.scores, members), dtype=torch.float32)
            torch.testing.assert_close(new.router.weight[place], (shares[:, None] * old.router.weight[members]).sum(0))
            torch.testing.assert_close(new.router.selection_bias_E[place], (shares * old.router.selection_bias_E[members]).sum())
        assert torch.equal(new.shared.out_proj.weight, old.shared.out_proj.weight)


def test_an_expert_that_stays_alone_stays_bit_for_bit():
    model = moe_model({"router": TOPK})
    merged, [change, _] = resized(model, ResizeOptions("merge", num_experts=3))
    alone = [(place, members[0]) for place, members in enumerate(change.made_of) if len(members) == 1]
    assert len(alone) == 2
    for place, expert in alone:
        assert torch.equal(merged.blocks[0].ffn.experts.in_proj[place], model.blocks[0].ffn.experts.in_proj[expert])
        assert torch.equal(merged.blocks[0].ffn.router.weight[place], model.blocks[0].ffn.router.weight[expert])


def test_a_dense_moe_merges_too():
    model = same_experts(moe_model({"kind": "dense"}))
    merged, _ = resized(model, ResizeOptions("merge", num_experts=2))
    torch.testing.assert_close(logits(merged), logits(model))


def test_statistics_against_a_loop():
    model = moe_model({"router": TOPK | {"normalize_weights": False}, "num_shared_experts": 1, "shared_gate": True})
    texts = [random_ids(1), random_ids(2)]
    found = measure(model, texts)
    count, weight, products, tokens = [0.0] * 4, [0.0] * 4, torch.zeros(4, 4), 0
    with torch.no_grad():
        for ids_BS in texts:
            routing = model(ids_BS)[1][1].routing
            for expert, one in zip(routing.expert_ids_A.tolist(), routing.weights_A.tolist(), strict=True):
                count[expert] += 1
                weight[expert] += one
            for logits_E in routing.logits_TE:
                centered = logits_E - logits_E.mean()
                products += centered[:, None] * centered
                tokens += 1
    assert found[1].load_E.tolist() == pytest.approx([one / sum(count) for one in count])
    assert found[1].weight_E.tolist() == pytest.approx([one / tokens for one in weight])
    torch.testing.assert_close(found[1].logit_products_EE.float(), products / tokens)
    assert 0 < found[1].shared_gate < 1 and found[0].shared_gate != found[1].shared_gate
    assert measure(moe_model({"router": TOPK}), texts)[0].shared_gate == 1


@pytest.mark.parametrize("overflow", ["residual", "next"])
def test_weights_are_those_that_the_experts_got(overflow):
    """Where a capacity drops or moves tokens, these are not the ones that the router gave."""
    capacity = {"eval_factor": 0.8, "overflow": overflow}
    model = moe_model({"router": TOPK | {"normalize_weights": False}, "capacity": capacity})
    ids_BS, sums = random_ids(1), []
    for ffn in model.feed_forwards():
        ffn.experts.register_forward_pre_hook(
            lambda _, inputs: sums.append([one.sum().item() for one in inputs[1].weights_A.split(inputs[1].load_E.tolist())])
        )
    found = measure(model, [ids_BS])
    records = model(ids_BS)[1]
    assert all((record.final_expert_ids_A != record.routing.expert_ids_A).any() == (overflow == "next") for record in records)
    assert all(not record.kept_A.all() for record in records)
    for layer in (0, 1):
        assert found[layer].weight_E.tolist() == pytest.approx([one / ids_BS.numel() for one in sums[layer]])


@pytest.mark.parametrize("ffn", [{"kind": "dense"}, {"router": {"kind": "expert_choice"}}])
def test_where_each_expert_has_as_many_tokens_the_load_is_the_routers_probability(ffn):
    model = moe_model(ffn)
    with torch.no_grad():
        probs_TE = model(random_ids(1))[1][0].routing.probs_TE
    assert measure(model, [random_ids(1)])[0].load_E.tolist() == pytest.approx(probs_TE.mean(0).tolist(), abs=1e-6)
