"""Capacity: how many assignments an expert takes from a group of tokens, who comes first, and where the overflow goes.

Knows a Routing as a list. Must not know which router made it. Shape letters: see routing.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from moecli.config import Config, PositiveFloat
from moecli.moe.causality import Leak
from moecli.moe.routing import Routing

Order = Literal["token", "choice", "priority"]


class CapacityConfig(Config):
    """Room for factor * top_k * N / num_experts assignments per expert in each group of N tokens, rounded up. Padding takes no room."""

    factor: PositiveFloat = 1.25
    """In training; 1 is room for the even share and no more."""
    eval_factor: PositiveFloat | None = 2.0
    """In evaluation; null drops nothing there."""
    group: Literal["sequence", "batch"] = "sequence"
    """Tokens that share the room: those of one sequence, or of all sequences of the batch one after the other."""
    order: Order = "token"
    """Who comes first: earlier tokens; first choices before second ones (GShard); or the same with the surest tokens first (V-MoE)."""
    overflow: Literal["residual", "next"] = "residual"
    """Where the overflow goes: past the experts on the residual stream, or to the token's next most probable expert with room."""

    def can_drop(self, top_k: int, num_experts: int) -> bool:
        """Whether any expert can ever overflow: it gets each token of a group once at most."""
        factors = (self.factor, self.eval_factor)
        return any(factor is not None and factor * top_k < num_experts for factor in factors)

    def leaks(self, top_k: int, num_experts: int, *, weighs_evenly: bool = False) -> list[Leak]:
        """How a capacity of this kind lets a token see the future or other rows. Where all weights are even, none has priority."""
        if not self.can_drop(top_k, num_experts):
            return []
        instead = f"order: token, capacity: null, or factor and eval_factor of {num_experts / top_k:.4g} or more, which drop nothing"
        leaks = []
        if self.order == "priority" and not weighs_evenly:
            why = "a later token that is surer of its expert takes the place of an earlier one"
            leaks.append(Leak("future", "order", why, instead))
        elif self.order != "token" and top_k > 1:
            why = "a later token's first choice takes the place of an earlier token's second choice"
            leaks.append(Leak("future", "order", why, instead))
        if self.group == "batch":
            why = "the sequences of a batch share the experts' room"
            leaks.append(Leak("rows", "group", why, "group: sequence"))
        return leaks


def expert_capacity(factor: float, top_k: int, group_size: int, num_experts: int) -> int:
    """C = ceil(factor * top_k * N / E), the even share times the factor (Switch, arXiv 2101.03961, eq. 3, for any top_k), N at most."""
    # The small number keeps products such as 1.1 * 10 from being rounded up to 12.
    return max(1, math.ceil(min(group_size, factor * top_k * group_size / num_experts - 1e-9)))


def keep_within_capacity(routing: Routing, order: Order, group_size: int, capacity: int) -> Tensor:
    """kept_A, bool: the first `capacity` assignments of each expert in each group, in this order."""
    place_A = claim_order(routing, order)
    queue_A = (routing.token_ids_A // group_size * routing.num_experts + routing.expert_ids_A)[place_A]
    sorted_queue_A, sorting_A = queue_A.sort(stable=True)
    # An assignment's rank in its queue: its place less that of the queue's first.
    rank_A = torch.arange(len(queue_A), device=queue_A.device) - torch.searchsorted(sorted_queue_A, sorted_queue_A)
    kept_A = torch.empty_like(queue_A, dtype=torch.bool)
    kept_A[place_A[sorting_A]] = rank_A < capacity
    return kept_A


def claim_order(routing: Routing, order: Order) -> Tensor:
    """int64 [A]: the assignments in the order in which they claim room. The routing lists them token by token."""
    if order == "token":
        return torch.arange(len(routing.token_ids_A), device=routing.token_ids_A.device)
    if order == "choice":
        return routing.choices_A.argsort(stable=True)
    # Batch-priority routing (V-MoE, arXiv 2106.05974, section 3.4): by the weight of the token's first choice.
    is_first_A = routing.choices_A == 0
    first_weight_T = routing.weights_A.new_zeros(routing.probs_TE.shape[0])
    first_weight_T[routing.token_ids_A[is_first_A]] = routing.weights_A[is_first_A].detach()
    by_priority_A = first_weight_T[routing.token_ids_A].argsort(descending=True, stable=True)
    return by_priority_A[routing.choices_A[by_priority_A].argsort(stable=True)]


@torch.compiler.disable
def move_to_experts_with_room(routing: Routing, order: Order, group_size: int, capacity: int) -> tuple[Tensor, Tensor]:
    """Each assignment in turn takes its expert, or the token's next most probable one that has room and is not the token's already.

    Returns where each runs, int64 [A], and which found a place, bool [A]. One after the other, because the first come decides what is
    left to the next; that also keeps `order: token` causal.
    """
    token_ids, choices = routing.token_ids_A.tolist(), routing.expert_ids_A.tolist()
    ranked: Sequence[Sequence[int]] = routing.probs_TE.argsort(dim=-1, descending=True, stable=True).tolist()
    room: dict[tuple[int, int], int] = {}
    taken = set(zip(token_ids, choices, strict=True))
    final, kept = list(choices), [False] * len(choices)
    for index in claim_order(routing, order).tolist():
        token = token_ids[index]
        group = token // group_size
        others = (expert for expert in ranked[token] if (token, expert) not in taken)
        for expert in (choices[index], *others):
            if room.setdefault((group, expert), capacity):
                room[group, expert] -= 1
                taken.add((token, expert))
                final[index], kept[index] = expert, True
                break
    device = routing.expert_ids_A.device
    return torch.tensor(final, dtype=torch.int64, device=device), torch.tensor(kept, dtype=torch.bool, device=device)
