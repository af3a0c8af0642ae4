"""Figures of how evenly a load is spread over experts: pure functions of a vector [..., E] of counts or shares.

Knows no routing: whoever has a load may ask. Leading dimensions (layers, say) are kept. An all-zero load counts as even.
"""

from __future__ import annotations

import torch
from torch import Tensor

# An expert is dead when its load is under this part of the even share.
DEAD_SHARE = 0.01


def load_shares(load_E: Tensor) -> Tensor:
    """The load as float64 shares that sum to 1."""
    load_E = load_E.double()
    total = load_E.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, load_E / total, torch.full_like(load_E, 1 / load_E.shape[-1]))


def coefficient_of_variation(load_E: Tensor) -> Tensor:
    """Population standard deviation over mean; 0 when even, sqrt(E - 1) when one expert has all."""
    shares_E = load_shares(load_E)
    return shares_E.std(dim=-1, correction=0) / shares_E.mean(dim=-1)


def max_violation(load_E: Tensor) -> Tensor:
    """MaxVio = (max - mean) / mean (arXiv 2408.15664, eq. 4); 0 when even, E - 1 when one expert has all."""
    shares_E = load_shares(load_E)
    return shares_E.amax(dim=-1) / shares_E.mean(dim=-1) - 1


def entropy(load_E: Tensor) -> Tensor:
    """Entropy of the shares in nats; ln(E) when even. exp of it is the number of experts that are effectively used."""
    return torch.special.entr(load_shares(load_E)).sum(dim=-1)


def dead_experts(load_E: Tensor) -> Tensor:
    """How many experts have less than DEAD_SHARE of the even share, int64."""
    return (load_shares(load_E) < DEAD_SHARE / load_E.shape[-1]).sum(dim=-1)


def dropped_fraction(chosen_load_E: Tensor, load_E: Tensor) -> Tensor:
    """Share of the chosen assignments that were not computed, float64."""
    chosen = chosen_load_E.sum(dim=-1).double()
    return (chosen - load_E.sum(dim=-1)) / chosen.clamp(min=1)


def moved_fraction(chosen_load_E: Tensor, num_moved: Tensor) -> Tensor:
    """Share of the chosen assignments that ran on another expert, because theirs was full, float64."""
    return num_moved.double() / chosen_load_E.sum(dim=-1).clamp(min=1)
