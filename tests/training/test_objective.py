"""What is minimised, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.losses import router_z_loss, switch_balance_loss
from moecli.moe.routing import Routing, RoutingRecord
from moecli.training.objective import causal_lm_losses


def record_of(logits_TE: torch.Tensor) -> RoutingRecord:
    probs_TE = logits_TE.softmax(dim=-1)
    weights_T, experts_T = probs_TE.max(dim=-1)
    return dispatch_dropless(Routing(logits_TE, probs_TE, torch.arange(len(logits_TE)), experts_T, weights_T))[1]


def test_cross_entropy_by_hand_without_routing():
    # Probabilities 3/4 and 1/5 for the two targets: (ln 4/3 + ln 5) / 2.
    logits = torch.tensor([[[math.log(3), 0.0], [math.log(4), 0.0]]])
    losses = causal_lm_losses(logits, torch.tensor([[0, 1]]), [None, None], balance_weight=0.5, z_weight=0.5)
    assert losses.cross_entropy.item() == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)
    assert losses.balance.item() == losses.router_z.item() == 0
    assert losses.total.item() == losses.cross_entropy.item()


def test_router_losses_are_weighted_means_over_the_layers_that_route():
    torch.manual_seed(0)
    records = [record_of(torch.randn(6, 3)), None, record_of(torch.randn(6, 3) * 4)]
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    losses = causal_lm_losses(logits, targets, records, balance_weight=0.25, z_weight=0.125)
    balance = (switch_balance_loss(records[0]) + switch_balance_loss(records[2])) / 2
    router_z = (router_z_loss(records[0]) + router_z_loss(records[2])) / 2
    torch.testing.assert_close(losses.balance, balance)
    torch.testing.assert_close(losses.router_z, router_z)
    torch.testing.assert_close(losses.total, losses.cross_entropy + 0.25 * balance + 0.125 * router_z)


def test_collapse_in_opposite_directions_is_not_hidden_by_the_mean():
    # Two layers, each with one expert that has all: pooled over layers they would look balanced.
    first, second = torch.tensor([[50.0, 0.0]] * 4), torch.tensor([[0.0, 50.0]] * 4)
    losses = causal_lm_losses(
        torch.zeros(1, 4, 2), torch.zeros(1, 4, dtype=torch.int64), [record_of(first), record_of(second)], balance_weight=1, z_weight=0
    )
    assert losses.balance.item() == pytest.approx(2.0)
