"""What is minimised, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.losses import router_z_loss
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import RoutingRecord
from moecli.training.config import TrainingConfig
from moecli.training.objective import training_losses
from tests.moe.test_losses import switch


def record_of(logits_TE: torch.Tensor, smooth_load_TE: torch.Tensor | None = None) -> RoutingRecord:
    probs_TE = logits_TE.softmax(dim=-1)
    weights_TK, experts_TK = probs_TE.topk(1, dim=-1)
    routing = token_choice(logits_TE, probs_TE, experts_TK, weights_TK, seq_len=len(logits_TE), smooth_load_TE=smooth_load_TE)
    return dispatch_dropless(routing)[1]


def test_cross_entropy_by_hand_without_routing():
    # Probabilities 3/4 and 1/5 for the two targets: (ln 4/3 + ln 5) / 2. The third token is not to be predicted.
    logits = torch.tensor([[[math.log(3), 0.0], [math.log(4), 0.0], [9.0, 0.0]]])
    losses = training_losses(logits, torch.tensor([[0, 1, -100]]), [], TrainingConfig(balance_loss=0.5, z_loss=0.5))
    assert losses.cross_entropy.item() == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)
    assert losses.router == {}
    assert losses.total.item() == losses.cross_entropy.item()


def test_router_losses_are_weighted_means_over_the_layers_that_route():
    torch.manual_seed(0)
    records = [record_of(torch.randn(6, 3)), record_of(torch.randn(6, 3) * 4)]
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    losses = training_losses(logits, targets, records, TrainingConfig(balance_loss=0.25, z_loss=0.125))
    balance = (switch(records[0]) + switch(records[1])) / 2
    router_z = (router_z_loss(records[0]) + router_z_loss(records[1])) / 2
    assert losses.router.keys() == {"balance_loss", "z_loss"}
    torch.testing.assert_close(losses.router["balance_loss"], balance)
    torch.testing.assert_close(losses.router["z_loss"], router_z)
    torch.testing.assert_close(losses.total, losses.cross_entropy + 0.25 * balance + 0.125 * router_z)


@pytest.mark.parametrize(("importance_of", "importance"), [("weights", 1.0), ("probs", 1 / 4)])
def test_importance_and_load_losses_by_hand(importance_of, importance):
    # Two tokens with probabilities (3/4, 1/4). Weights: 3/4 and 3/4 to expert 0, CV^2 of (3/2, 0) = (3/4)^2 / (3/4)^2 = 1.
    # Probabilities: (3/2, 1/2), mean 1, variance 1/4: CV^2 = 1/4. Smooth load (1.2, 0.8): mean 1, variance 0.04.
    record = record_of(torch.tensor([[math.log(3), 0.0]] * 2), smooth_load_TE=torch.tensor([[0.5, 0.5], [0.7, 0.3]]))
    config = TrainingConfig(balance_loss=0, z_loss=0, importance_loss=0.5, load_loss=0.25, importance_of=importance_of)
    losses = training_losses(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.int64), [record], config)
    assert losses.router["importance_loss"].item() == pytest.approx(importance)
    assert losses.router["load_loss"].item() == pytest.approx(0.04)
    assert losses.total.item() == pytest.approx(math.log(2) + 0.5 * importance + 0.25 * 0.04)


def test_collapse_in_opposite_directions_is_not_hidden_by_the_mean():
    # Two layers, each with one expert that has all: pooled over layers they would look balanced.
    first, second = torch.tensor([[50.0, 0.0]] * 4), torch.tensor([[0.0, 50.0]] * 4)
    records = [record_of(first), record_of(second)]
    losses = training_losses(torch.zeros(1, 4, 2), torch.zeros(1, 4, dtype=torch.int64), records, TrainingConfig())
    assert losses.router["balance_loss"].item() == pytest.approx(2.0)
