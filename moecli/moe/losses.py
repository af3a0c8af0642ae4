"""Losses that judge a routing: pure functions of one layer's record, each 1 (or 0, where it says so) at perfect balance.

Knows one RoutingRecord at a time. Must not know how losses are weighted or added up: that is training's.
Shape letters: see routing.py.
"""

from __future__ import annotations

from torch import Tensor

from moecli.moe.routing import RoutingRecord


def switch_balance_loss(record: RoutingRecord) -> Tensor:
    """E * sum_i f_i P_i (Switch, arXiv 2101.03961, eq. 4-6), a scalar, 1 when balanced.

    f_i is the share of assignments that chose expert i, before drops and without gradient; P_i the mean probability.
    Departure: with top_k > 1 all choices count and f is divided by top_k, so that balance is 1 for every k.
    """
    load_share_E = record.chosen_load_E / record.chosen_load_E.sum()
    mean_prob_E = record.routing.probs_TE.mean(dim=0)
    return record.routing.num_experts * (load_share_E * mean_prob_E).sum()


def router_z_loss(record: RoutingRecord) -> Tensor:
    """Mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5), a scalar; small logits make it small."""
    return record.routing.logits_TE.logsumexp(dim=-1).square().mean()
