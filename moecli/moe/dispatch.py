"""How tokens reach their experts and come back: the assignments that are kept, sorted by expert.

Knows a Routing as a list. Must not know which router made it, nor what an expert computes. Has no parameters.
Shape letters: see routing.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.moe.routing import Routing, RoutingRecord


@dataclass(frozen=True, slots=True)
class ExpertQueues:
    """The kept assignments, all of expert 0 first, then all of expert 1, and so on. Within an expert the order of priority stays."""

    token_ids_A: Tensor
    weights_A: Tensor
    load_E: Tensor
    """int64, how many of the assignments are each expert's."""


def dispatch_dropless(routing: Routing) -> tuple[ExpertQueues, RoutingRecord]:
    """Every assignment is kept, however many an expert gets (MegaBlocks, arXiv 2211.15841)."""
    load_E = count_load(routing.expert_ids_A, routing.num_experts)
    # Few experts fit into one byte, and a stable sort of bytes is a radix sort: on CPUs 8 times as fast as one of 8-byte numbers.
    sort_key_A = routing.expert_ids_A.to(torch.uint8) if routing.num_experts <= 256 else routing.expert_ids_A
    order_A = torch.argsort(sort_key_A, stable=True)
    queues = ExpertQueues(routing.token_ids_A[order_A], routing.weights_A[order_A], load_E)
    kept_A = torch.ones_like(routing.expert_ids_A, dtype=torch.bool)
    return queues, RoutingRecord(routing, chosen_load_E=load_E, load_E=load_E, kept_A=kept_A)


def count_load(expert_ids_A: Tensor, num_experts: int) -> Tensor:
    """Assignments per expert, int64 [E]. (`bincount` would wait for an accelerator to tell its largest id.)"""
    ones_A = torch.ones_like(expert_ids_A)
    return torch.zeros(num_experts, dtype=torch.int64, device=expert_ids_A.device).scatter_add_(0, expert_ids_A, ones_A)
