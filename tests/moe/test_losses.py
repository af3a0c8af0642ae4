"""The losses and the sums that they are taken of, by hand, and what they are at balance and at collapse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moecli.moe.balance_sums import balance_sums
from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.losses import cv_squared, router_z_loss, switch_balance_loss
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import RoutingRecord, Tokens


def record_of(logits_TE: list[list[float]], top_k: int, seq_len: int | None = None, is_padding: list[bool] | None = None) -> RoutingRecord:
    logits = torch.tensor(logits_TE, requires_grad=True)
    seq_len = seq_len or len(logits_TE)
    probs = logits.softmax(dim=-1)
    weights, experts = probs.topk(top_k, dim=-1)
    tokens = None
    if is_padding is not None:
        tokens = Tokens(torch.zeros(len(logits) // seq_len, seq_len, dtype=torch.int64), torch.tensor(is_padding).view(-1, seq_len))
    return dispatch_dropless(token_choice(logits, probs, experts, weights, seq_len=seq_len, tokens=tokens))[1]


def switch(record: RoutingRecord, counts="chosen", per_sequence=False) -> torch.Tensor:
    sums = balance_sums(record, counts=counts, per_sequence=per_sequence)
    return switch_balance_loss(sums.count_GE, sums.prob_GE)


def test_switch_balance_loss_by_hand():
    # softmax([ln 3, 0]) = (3/4, 1/4), softmax([ln 1, ln 4]) = (1/5, 4/5), three tokens: two of the first kind, one of the second.
    # f = (2/3, 1/3); P = ((3/4 + 3/4 + 1/5) / 3, (1/4 + 1/4 + 4/5) / 3) = (17/30, 13/30)
    # E * sum f P = 2 * (2/3 * 17/30 + 1/3 * 13/30) = 2 * 47/90 = 47/45
    record = record_of([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, math.log(4)]], top_k=1)
    assert switch(record).item() == pytest.approx(47 / 45, abs=1e-6)


TWO_TOKENS = [[math.log(4), math.log(3), 0.0], [math.log(4), 0.0, math.log(3)]]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # Two tokens, three experts, top-2: token 0 takes experts 0 and 1, token 1 takes 0 and 2. f = (2, 1, 1) / 4.
        # softmax(ln [4, 3, 1]) = (4, 3, 1)/8, softmax(ln [4, 1, 3]) = (4, 1, 3)/8; P = (8, 4, 4) / 16 = (1/2, 1/4, 1/4)
        # 3 * (1/2 * 1/2 + 1/4 * 1/4 + 1/4 * 1/4) = 3 * 3/8 = 9/8
        ("chosen", 9 / 8),
        ("unbiased", 9 / 8),
        # GShard: both first choices are expert 0, f = (1, 0, 0): 3 * 1/2.
        ("first", 3 / 2),
    ],
)
def test_switch_balance_loss_with_two_choices(counts, expected):
    assert switch(record_of(TWO_TOKENS, top_k=2), counts).item() == pytest.approx(expected, abs=1e-6)


def test_unbiased_counts_go_by_probability_whatever_was_chosen():
    # Both tokens were sent to expert 2, as a bias might; their most probable expert is 0.
    probs = torch.tensor([[0.6, 0.3, 0.1]] * 2)
    routing = token_choice(probs.log(), probs, torch.full((2, 1), 2), torch.full((2, 1), 0.1), seq_len=2)
    record = dispatch_dropless(routing)[1]
    assert balance_sums(record, counts="chosen", per_sequence=False).count_GE.tolist() == [[0, 0, 2]]
    assert balance_sums(record, counts="unbiased", per_sequence=False).count_GE.tolist() == [[2, 0, 0]]


def test_balance_per_sequence_is_the_mean_of_each_sequences_own():
    # Sequence 0 sends both tokens to expert 0, sequence 1 both to expert 1: evenly loaded together, collapsed one by one.
    collapsed = [[50.0, 0.0]] * 2 + [[0.0, 50.0]] * 2
    record = record_of(collapsed, top_k=1, seq_len=2)
    assert switch(record).item() == pytest.approx(1.0)
    assert switch(record, per_sequence=True).item() == pytest.approx(2.0)


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("counts", ["chosen", "first", "unbiased"])
def test_switch_balance_loss_is_1_when_probabilities_are_even(top_k, counts):
    assert switch(record_of([[0.0] * 4] * 8, top_k), counts).item() == pytest.approx(1.0)


def test_switch_balance_loss_is_num_experts_when_one_expert_has_all():
    assert switch(record_of([[50.0, 0.0, 0.0, 0.0]] * 8, top_k=1)).item() == pytest.approx(4.0)


def test_switch_balance_loss_pushes_the_crowded_expert_down():
    record = record_of([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], top_k=1)
    (gradient_TE,) = torch.autograd.grad(switch(record), record.routing.logits_TE)
    assert (gradient_TE[:, 0] > 0).all() and (gradient_TE[:, 1] < 0).all()


def test_cv_squared_by_hand():
    # (1, 3): mean 2, variance ((1-2)^2 + (3-2)^2) / 2 = 1, squared CV 1/4. (6, 0, 0): mean 2, variance (16 + 4 + 4) / 3 = 8, 8/4 = 2.
    assert cv_squared(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(1 / 4)
    assert cv_squared(torch.tensor([[6.0, 0.0, 0.0]])).item() == pytest.approx(2.0)
    assert cv_squared(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).item() == pytest.approx(1 / 8)
    assert cv_squared(torch.zeros(1, 3)).item() == 0


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6))
def test_cv_squared_is_that_of_the_statistics_module(values):
    import statistics

    expected = statistics.pvariance(values) / statistics.mean(values) ** 2
    assert cv_squared(torch.tensor([values], dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_importance_of_weights_and_of_probabilities_by_hand():
    # Weights are the two largest probabilities as they are: expert 0 gets 4/8 + 4/8, 1 and 2 get 3/8 each.
    sums = balance_sums(record_of(TWO_TOKENS, top_k=2), counts="chosen", per_sequence=False)
    torch.testing.assert_close(sums.weight_GE, torch.tensor([[1.0, 3 / 8, 3 / 8]]))
    torch.testing.assert_close(sums.prob_GE, torch.tensor([[1.0, 4 / 8, 4 / 8]]))
    assert sums.smooth_load_GE is None


def test_router_z_loss_by_hand():
    # logsumexp(0, 0) = ln 2; logsumexp(ln 3, 0) = ln 4. Mean of squares: (ln(2)^2 + ln(4)^2) / 2 = (ln(2)^2 + 4 ln(2)^2) / 2 = 2.5 ln(2)^2
    logits = [[0.0, 0.0], [math.log(3), 0.0]]
    assert router_z_loss(record_of(logits, top_k=1)).item() == pytest.approx(2.5 * math.log(2) ** 2, abs=1e-6)
    # The second token is padding: ln(2)^2 is left. Padding alone: nothing is.
    assert router_z_loss(record_of(logits, 1, is_padding=[False, True])).item() == pytest.approx(math.log(2) ** 2, abs=1e-6)
    assert router_z_loss(record_of(logits, 1, is_padding=[True, True])).item() == 0


def test_a_sequence_of_padding_alone_is_even_and_has_no_gradient():
    record = record_of([[1.0, 0.0]] * 4, top_k=1, seq_len=2, is_padding=[False, False, True, True])
    sums = balance_sums(record, counts="chosen", per_sequence=True)
    loss = switch_balance_loss(sums.count_GE, sums.prob_GE) + cv_squared(sums.prob_GE)
    (gradient_TE,) = torch.autograd.grad(loss, record.routing.logits_TE)
    assert gradient_TE.isfinite().all()
    assert gradient_TE[:2].abs().min() > 0 and gradient_TE[2:].abs().max() == 0


@pytest.mark.parametrize("num_parts", [1, 2, 4])
def test_the_mean_over_parts_taken_as_the_whole_is_the_loss_of_the_whole(num_parts):
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).tolist()
    whole = record_of(logits, top_k=2)
    whole_sums = balance_sums(whole, counts="chosen", per_sequence=False)
    loss = switch_balance_loss(whole_sums.count_GE, whole_sums.prob_GE) + cv_squared(whole_sums.weight_GE)
    (expected_TE,) = torch.autograd.grad(loss, whole.routing.logits_TE)
    size = 8 // num_parts
    gradients, total = [], whole_sums.detach()
    for first in range(0, 8, size):
        part = record_of(logits[first : first + size], top_k=2)
        sums = balance_sums(part, counts="chosen", per_sequence=False).within(total, num_parts)
        part_loss = (switch_balance_loss(sums.count_GE, sums.prob_GE) + cv_squared(sums.weight_GE)) / num_parts
        torch.testing.assert_close(part_loss * num_parts, loss)
        gradients += torch.autograd.grad(part_loss, part.routing.logits_TE)
    torch.testing.assert_close(torch.cat(gradients), expected_TE)
