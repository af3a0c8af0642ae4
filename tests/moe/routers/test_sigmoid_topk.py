"""Sigmoid top-k with bias and groups against the equations of DeepSeek-V3."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig
from moecli.moe.routers.sigmoid_topk import SigmoidTopKRouter
from tests.moe.routers.against_oracle import (
    D_MODEL,
    Case,
    Expected,
    assert_equals_oracle,
    build,
    cases,
    entries_of,
    large_case,
    largest,
    logits_of,
    quick,
)


def oracle(router: SigmoidTopKRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    config, expected = router.config, Expected()
    num_experts = len(router.weight)
    bias = [0.0] * num_experts if router.selection_bias_E is None else router.selection_bias_E.tolist()
    size = num_experts // config.num_groups
    for token, x_D in enumerate(x_BSD.flatten(0, 1)):
        scores = [1 / (1 + torch.exp(-logit)) for logit in logits_of(router.weight, x_D)]
        total = sum(scores)
        expected.probs += [score / total for score in scores]
        biased = [score.item() + b for score, b in zip(scores, bias, strict=True)]
        of_groups = []
        for group in range(config.num_groups):
            members = sorted(biased[group * size : (group + 1) * size], reverse=True)
            of_groups.append(members[0] if config.group_score == "max" else sum(members[:2]))
        allowed = [expert for group in largest(of_groups, config.top_groups) for expert in range(group * size, (group + 1) * size)]
        chosen = [allowed[index] for index in largest([biased[expert] for expert in allowed], config.top_k)]
        if not padding_T[token]:
            total_chosen = sum(scores[expert] for expert in chosen)
            for choice, expert in enumerate(chosen):
                weight = scores[expert] / total_chosen if config.normalize_weights else scores[expert]
                expected.add(token, expert, choice, config.scale * weight)
    return expected


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize_weights": False, "scale": 2.5},
        {"selection_bias": False},
        {"num_groups": 3, "top_groups": 2, "scale": 2.5},
        {"num_groups": 3, "top_groups": 2, "group_score": "max"},
        {"num_groups": 2, "top_groups": 2},
        {"num_groups": 6, "top_groups": 4, "group_score": "max", "selection_bias": False},
    ],
)
def test_a_large_case_equals_the_oracle(options, top_k):
    case = large_case(top_k)
    assert_equals_oracle(build(SigmoidTopKConfig(top_k=top_k, **options), 6), oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), normalize=st.booleans(), bias=st.booleans(), scale=st.sampled_from([1.0, 2.5]))
def test_equals_the_oracle_with_every_gradient(case: Case, normalize: bool, bias: bool, scale: float):
    config = SigmoidTopKConfig(top_k=case.top_k, normalize_weights=normalize and case.top_k > 1, selection_bias=bias, scale=scale)
    router = build(config, case.num_experts, case.seed)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(data=st.data(), group_score=st.sampled_from(["top2_sum", "max"]))
def test_groups_equal_the_oracle_with_every_gradient(data: st.DataObject, group_score: str):
    num_groups, size = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 3))
    top_groups = data.draw(st.integers(1, num_groups))
    case = data.draw(cases(num_experts=num_groups * size, most_k=top_groups * size))
    config = SigmoidTopKConfig(top_k=case.top_k, num_groups=num_groups, top_groups=top_groups, group_score=group_score)
    assert SparseMoEConfig(num_experts=case.num_experts, router=config).problems() == []
    router = build(config, case.num_experts, case.seed)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


def router_with_scores(config: SigmoidTopKConfig, scores: list[float], bias: list[float]) -> SigmoidTopKRouter:
    """A router of one feature, whose sigmoid scores for the input 1 are these."""
    router = SigmoidTopKRouter(config, d_model=1, num_experts=len(scores))
    with torch.no_grad():
        router.weight.copy_(torch.tensor(scores).logit()[:, None])
    router.selection_bias_E.copy_(torch.tensor(bias))
    return router


@pytest.mark.parametrize(
    ("group_score", "chosen", "weights"),
    [
        # s + b = 0.9 0.1 | 0.6 0.7 | 0.2 0.3: sums 1.0, 1.3, 0.5: group 1, experts 3 and 2.
        # Weights from s alone: s = 0.9 0.1 | 0.6 0.2 | 0.2 0.3, so 2.5 * 0.2 / (0.2 + 0.6) = 0.625 and 2.5 * 0.6 / 0.8 = 1.875.
        ("top2_sum", [3, 2], [0.625, 1.875]),
        # Best ones 0.9, 0.7, 0.3: group 0, experts 0 and 1: 2.5 * 0.9 / 1.0 = 2.25 and 2.5 * 0.1 / 1.0 = 0.25.
        ("max", [0, 1], [2.25, 0.25]),
    ],
)
def test_groups_bias_and_scale_by_hand(group_score, chosen, weights):
    config = SigmoidTopKConfig(top_k=2, num_groups=3, top_groups=1, group_score=group_score, scale=2.5)
    router = router_with_scores(config, [0.9, 0.1, 0.6, 0.2, 0.2, 0.3], [0.0, 0.0, 0.0, 0.5, 0.0, 0.0])
    routing = router(torch.ones(1, 1, 1))
    assert routing.expert_ids_A.tolist() == chosen
    torch.testing.assert_close(routing.weights_A, torch.tensor(weights))
    # 0.9 + 0.1 + 0.6 + 0.2 + 0.2 + 0.3 = 2.3.
    torch.testing.assert_close(routing.probs_TE, torch.tensor([[0.9, 0.1, 0.6, 0.2, 0.2, 0.3]]) / 2.3)


def test_a_group_of_negative_scores_is_still_chosen_before_those_outside():
    # All biased scores are negative: -0.1 -0.2 | -0.3 -0.4. Experts outside the best group must not win by being masked to 0.
    config = SigmoidTopKConfig(top_k=2, num_groups=2, top_groups=1)
    router = router_with_scores(config, [0.9, 0.8, 0.7, 0.6], [-1.0] * 4)
    assert router(torch.ones(1, 1, 1)).expert_ids_A.tolist() == [0, 1]


@pytest.mark.parametrize(
    "options",
    [{"num_groups": 2, "top_groups": 2}, {"num_groups": 3, "top_groups": 3}, {"num_groups": 6, "top_groups": 6, "group_score": "max"}],
)
def test_all_groups_are_no_groups(options):
    router, plain = build(SigmoidTopKConfig(top_k=3, **options), 6), build(SigmoidTopKConfig(top_k=3), 6)
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    ours, theirs = router(x_BSD), plain(x_BSD)
    assert entries_of(ours) == entries_of(theirs)
    assert torch.equal(ours.weights_A, theirs.weights_A)


@pytest.mark.parametrize("group_score", ["top2_sum", "max"])
def test_one_group_is_plain_top_k(group_score):
    # Whatever a group's score is, with one group there is nothing to choose among groups: the 3 largest of s + b.
    router = build(SigmoidTopKConfig(top_k=3, num_groups=1, group_score=group_score, normalize_weights=False), 6)
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    scores_TE = torch.sigmoid(x_BSD.flatten(0, 1) @ router.weight.T)
    expert_ids_TK = (scores_TE + router.selection_bias_E).argsort(dim=1, descending=True)[:, :3]
    routing = router(x_BSD)
    assert torch.equal(routing.expert_ids_A.view(10, 3), expert_ids_TK)
    torch.testing.assert_close(routing.weights_A.view(10, 3), scores_TE.gather(1, expert_ids_TK))


def test_a_bias_of_zero_is_no_bias():
    router, plain = build(SigmoidTopKConfig(), 6), build(SigmoidTopKConfig(selection_bias=False), 6)
    router.selection_bias_E.zero_()
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    ours, theirs = router(x_BSD), plain(x_BSD)
    assert "selection_bias_E" in router.state_dict() and "selection_bias_E" not in plain.state_dict()
    assert entries_of(ours) == entries_of(theirs)
    assert torch.equal(ours.weights_A, theirs.weights_A)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"num_groups": 4}, "does not divide num_experts"),
        ({"num_groups": 6, "top_groups": 2}, "have no two best"),
        ({"num_groups": 3, "top_groups": 1, "top_k": 3}, "too few for top_k 3"),
        ({"num_groups": 2, "top_groups": 3}, "more groups per token than there are groups"),
        ({"top_k": 1, "normalize_weights": True}, "would learn nothing"),
    ],
)
def test_impossible_groups_are_refused(options, what):
    with pytest.raises(ValueError, match=what):
        SparseMoEConfig(num_experts=6, router=SigmoidTopKConfig(**options))
