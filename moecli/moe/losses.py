"""Losses that judge a routing: pure functions of sums over tokens (balance_sums.py), each 1 or 0 at perfect balance, as it says.

Knows sums per expert and logits. Must not know how losses are weighted or added up: that is training's.
Shape letters: see routing.py; G groups of tokens that are judged by themselves, over which a loss is the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moecli.moe.routing import RoutingRecord


def switch_balance_loss(count_GE: Tensor, prob_GE: Tensor) -> Tensor:
    """E * sum_i f_i P_i (Switch, arXiv 2101.03961, eq. 4-6), a scalar, 1 when balanced, E when one expert has all.

    f_i is the share of expert i in the counted choices, without gradient; P_i its share of the probability, which is its mean over tokens.
    Departure: shares sum to 1 whatever top_k is, so that balance is 1 for every k.
    """
    return count_GE.shape[1] * (_shares(count_GE) * _shares(prob_GE)).sum(dim=-1).mean()


def cv_squared(sum_GE: Tensor) -> Tensor:
    """Population variance over squared mean, the squared CV (arXiv 1701.06538, eq. 7 and 11): a scalar, 0 when balanced."""
    shares_GE = _shares(sum_GE)
    return (shares_GE.var(dim=-1, correction=0) / shares_GE.mean(dim=-1).square()).mean()


def router_z_loss(record: RoutingRecord) -> Tensor:
    """Mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5), a scalar; small logits make it small."""
    routing = record.routing
    squares_T = routing.logits_TE.logsumexp(dim=-1).square()
    if routing.is_padding_T is None:
        return squares_T.mean()
    is_token_T = ~routing.is_padding_T
    return (squares_T * is_token_T).sum() / is_token_T.sum().clamp(min=1)


def _shares(sum_GE: Tensor) -> Tensor:
    """Divided by their sum; even where there is nothing to share."""
    total_G1 = sum_GE.sum(dim=-1, keepdim=True)
    has_any_G1 = total_G1 > 0
    return torch.where(has_any_G1, sum_GE / total_G1.where(has_any_G1, 1.0), 1 / sum_GE.shape[-1])
