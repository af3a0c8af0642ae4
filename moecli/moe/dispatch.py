"""How tokens reach their experts and come back: which assignments are kept, sorted by expert.

Knows a Routing as a list. Must not know which router made it, nor what an expert computes. Has no parameters.
Shape letters: see routing.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.moe.capacity import CapacityConfig, expert_capacity, keep_within_capacity, move_to_experts_with_room
from moecli.moe.routing import Routing, RoutingRecord


@dataclass(frozen=True, slots=True)
class ExpertQueues:
    """The kept assignments, all of expert 0 first, then all of expert 1, and so on. Within an expert the routing's order stays."""

    token_ids_A: Tensor
    weights_A: Tensor
    load_E: Tensor
    """int64, how many of the assignments are each expert's."""
    order_A: Tensor | None = None
    """int64: where each stood in the routing's list, if that has all choices of every token; else None."""


def dispatch_dropless(routing: Routing) -> tuple[ExpertQueues, RoutingRecord]:
    """Every assignment is kept, however many an expert gets (MegaBlocks, arXiv 2211.15841)."""
    queues = _queues(routing.token_ids_A, routing.expert_ids_A, routing.weights_A, routing.num_experts, routing.has_all_choices)
    return queues, record_of_kept(routing, queues.load_E)


def record_of_kept(routing: Routing, load_E: Tensor) -> RoutingRecord:
    """The record where every assignment is computed by the expert that was chosen."""
    kept_A = torch.ones_like(routing.expert_ids_A, dtype=torch.bool)
    return RoutingRecord(routing, chosen_load_E=load_E, load_E=load_E, kept_A=kept_A, final_expert_ids_A=routing.expert_ids_A)


def dispatch_with_capacity(routing: Routing, config: CapacityConfig, factor: float) -> tuple[ExpertQueues, RoutingRecord]:
    """Within each group every expert keeps as many assignments as its capacity; what overflows is dropped, or moved where there is room."""
    num_tokens = routing.probs_TE.shape[0]
    group_size = routing.seq_len if config.group == "sequence" else num_tokens
    capacity = expert_capacity(factor, routing.top_k, group_size, routing.num_experts)
    expert_ids_A, weights_A = routing.expert_ids_A, routing.weights_A
    if config.overflow == "next":
        expert_ids_A, kept_A = move_to_experts_with_room(routing, config.order, group_size, capacity)
        weights_A = weights_A * relative_prob(routing, expert_ids_A)
    else:
        kept_A = keep_within_capacity(routing, config.order, group_size, capacity)
    queues = _queues(routing.token_ids_A[kept_A], expert_ids_A[kept_A], weights_A[kept_A], routing.num_experts, has_all_choices=False)
    chosen_load_E = count_load(routing.expert_ids_A, routing.num_experts)
    record = RoutingRecord(routing, chosen_load_E=chosen_load_E, load_E=queues.load_E, kept_A=kept_A, final_expert_ids_A=expert_ids_A)
    return queues, record


def count_load(expert_ids_A: Tensor, num_experts: int) -> Tensor:
    """Assignments per expert, int64 [E]. (`bincount` would wait for an accelerator to tell its largest id.)"""
    ones_A = torch.ones_like(expert_ids_A)
    return torch.zeros(num_experts, dtype=torch.int64, device=expert_ids_A.device).scatter_add_(0, expert_ids_A, ones_A)


def _queues(token_ids_A: Tensor, expert_ids_A: Tensor, weights_A: Tensor, num_experts: int, has_all_choices: bool) -> ExpertQueues:
    # Few experts fit into one byte, and a stable sort of bytes is a radix sort: on CPUs 8 times as fast as one of 8-byte numbers.
    sort_key_A = expert_ids_A.to(torch.uint8) if num_experts <= 256 else expert_ids_A
    order_A = torch.argsort(sort_key_A, stable=True)
    load_E = count_load(expert_ids_A, num_experts)
    # index_select, not [order_A]: the backward pass of indexing sorts on CUDA.
    weights_A = weights_A.index_select(0, order_A)
    return ExpertQueues(token_ids_A[order_A], weights_A, load_E, order_A if has_all_choices else None)


def relative_prob(routing: Routing, expert_ids_A: Tensor) -> Tensor:
    """p(new expert) / p(chosen expert) per assignment, at most 1; 1 where it was not moved: the factor of a moved assignment's weight.

    So an unnormalised weight becomes the new expert's probability, and a normalised one keeps the divisor that it was chosen with. Noise or
    a bias may have chosen an expert that is less probable than the next one, by any factor: then the weight stays as it is.
    """
    new_prob_A = routing.probs_TE[routing.token_ids_A, expert_ids_A]
    chosen_prob_A = routing.probs_TE[routing.token_ids_A, routing.expert_ids_A]
    ratio_A = new_prob_A / torch.maximum(new_prob_A, chosen_prob_A).clamp(min=torch.finfo(new_prob_A.dtype).tiny)
    return torch.where(expert_ids_A == routing.expert_ids_A, torch.ones_like(ratio_A), ratio_A)
