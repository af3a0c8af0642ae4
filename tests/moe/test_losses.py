"""The losses by hand, and what they are at balance and at collapse."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.losses import router_z_loss, switch_balance_loss
from moecli.moe.routing import Routing, RoutingRecord


def record_of(logits_TE: list[list[float]], top_k: int) -> RoutingRecord:
    logits = torch.tensor(logits_TE, requires_grad=True)
    probs = logits.softmax(dim=-1)
    weights, experts = probs.topk(top_k, dim=-1)
    tokens = torch.arange(len(logits)).repeat_interleave(top_k)
    _, record = dispatch_dropless(Routing(logits, probs, tokens, experts.flatten(), weights.flatten()))
    return record


def test_switch_balance_loss_by_hand():
    # softmax([ln 3, 0]) = (3/4, 1/4), softmax([ln 1, ln 4]) = (1/5, 4/5), three tokens: two of the first kind, one of the second.
    # f = (2/3, 1/3); P = ((3/4 + 3/4 + 1/5) / 3, (1/4 + 1/4 + 4/5) / 3) = (17/30, 13/30)
    # E * sum f P = 2 * (2/3 * 17/30 + 1/3 * 13/30) = 2 * 47/90 = 47/45
    record = record_of([[math.log(3), 0.0], [math.log(3), 0.0], [0.0, math.log(4)]], top_k=1)
    assert switch_balance_loss(record).item() == pytest.approx(47 / 45, abs=1e-6)


def test_switch_balance_loss_counts_all_choices_and_divides_by_their_number():
    # Two tokens, three experts, top-2: token 0 takes experts 0 and 1, token 1 takes 0 and 2. f = (2, 1, 1) / 4.
    # softmax(ln [4, 3, 1]) = (4, 3, 1)/8, softmax(ln [4, 1, 3]) = (4, 1, 3)/8; P = (8, 4, 4) / 16 = (1/2, 1/4, 1/4)
    # 3 * (1/2 * 1/2 + 1/4 * 1/4 + 1/4 * 1/4) = 3 * 3/8 = 9/8
    record = record_of([[math.log(4), math.log(3), 0.0], [math.log(4), 0.0, math.log(3)]], top_k=2)
    assert switch_balance_loss(record).item() == pytest.approx(9 / 8, abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_switch_balance_loss_is_1_when_probabilities_are_even(top_k):
    assert switch_balance_loss(record_of([[0.0] * 4] * 8, top_k)).item() == pytest.approx(1.0)


def test_switch_balance_loss_is_num_experts_when_one_expert_has_all():
    assert switch_balance_loss(record_of([[50.0, 0.0, 0.0, 0.0]] * 8, top_k=1)).item() == pytest.approx(4.0)


def test_switch_balance_loss_pushes_the_crowded_expert_down():
    record = record_of([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], top_k=1)
    (gradient_TE,) = torch.autograd.grad(switch_balance_loss(record), record.routing.logits_TE)
    assert (gradient_TE[:, 0] > 0).all() and (gradient_TE[:, 1] < 0).all()


def test_router_z_loss_by_hand():
    # logsumexp(0, 0) = ln 2; logsumexp(ln 3, 0) = ln 4. Mean of squares: (ln(2)^2 + ln(4)^2) / 2 = (ln(2)^2 + 4 ln(2)^2) / 2 = 2.5 ln(2)^2
    record = record_of([[0.0, 0.0], [math.log(3), 0.0]], top_k=1)
    assert router_z_loss(record).item() == pytest.approx(2.5 * math.log(2) ** 2, abs=1e-6)
