"""What the balance losses need to know of a routing: sums over tokens, per expert.

Sums of parts are the parts of sums: so a loss over a batch that went through the model in pieces can be taken exactly (`within`).
Knows a RoutingRecord. Must not know losses or training. Shape letters: see routing.py; G groups of tokens that are judged by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moecli.moe.routing import Routing, RoutingRecord

Counts = Literal["chosen", "first", "unbiased"]


@dataclass(frozen=True, slots=True)
class BalanceSums:
    """Of one layer, over the non-padding tokens of each group; float32."""

    count_GE: Tensor
    """Choices, before drops; without gradient."""
    prob_GE: Tensor
    """Router probability: V-MoE's importance."""
    weight_GE: Tensor
    """Combine weights: Shazeer's importance."""
    smooth_load_GE: Tensor | None
    """Probabilities of being chosen under fresh noise: Shazeer's and V-MoE's load. None without noise."""

    def detach(self) -> BalanceSums:
        smooth_load_GE = None if self.smooth_load_GE is None else self.smooth_load_GE.detach()
        return BalanceSums(self.count_GE, self.prob_GE.detach(), self.weight_GE.detach(), smooth_load_GE)

    def __add__(self, other: BalanceSums) -> BalanceSums:
        smooth_load_GE = None
        if self.smooth_load_GE is not None and other.smooth_load_GE is not None:
            smooth_load_GE = self.smooth_load_GE + other.smooth_load_GE
        return BalanceSums(self.count_GE + other.count_GE, self.prob_GE + other.prob_GE, self.weight_GE + other.weight_GE, smooth_load_GE)

    def within(self, whole: BalanceSums, num_parts: int) -> BalanceSums:
        """This part of a batch of `num_parts` parts, as the whole: the whole's values with this part's gradient, times num_parts.

        The mean over the parts of any loss of it is then the loss of the whole, in value and in gradient: a loss L of S = sum_p s_p has
        dL = L'(S) sum_p ds_p, and each part contributes its L'(S) ds_p.
        """

        def merge(part: Tensor, total: Tensor) -> Tensor:
            return total + num_parts * (part - part.detach())

        smooth_load_GE = None
        if self.smooth_load_GE is not None and whole.smooth_load_GE is not None:
            smooth_load_GE = merge(self.smooth_load_GE, whole.smooth_load_GE)
        return BalanceSums(whole.count_GE, merge(self.prob_GE, whole.prob_GE), merge(self.weight_GE, whole.weight_GE), smooth_load_GE)


def balance_sums(record: RoutingRecord, *, counts: Counts, per_sequence: bool) -> BalanceSums:
    """The sums of one layer, over all its tokens (G = 1) or over each sequence (G = B).

    `counts` says which choices count: all that were `chosen`; each token's `first` alone (GShard); or the `unbiased` ones, the top_k most
    probable experts, whatever bias, noise or groups made of them (DeepSeek-V3, arXiv 2412.19437, eq. 18).
    """
    routing = record.routing
    num_tokens, num_experts = routing.probs_TE.shape
    group_size = routing.seq_len if per_sequence else num_tokens
    num_groups = num_tokens // group_size

    def over_assignments(values_A: Tensor) -> Tensor:
        cell_A = routing.token_ids_A // group_size * num_experts + routing.expert_ids_A
        return values_A.new_zeros(num_groups * num_experts).index_add(0, cell_A, values_A).view(num_groups, num_experts)

    def over_tokens(values_TE: Tensor) -> Tensor:
        if routing.is_padding_T is not None:
            values_TE = values_TE.masked_fill(routing.is_padding_T[:, None], 0)
        return values_TE.view(num_groups, group_size, num_experts).sum(dim=1)

    if counts == "unbiased":
        count_GE = over_tokens(_most_probable(routing))
    elif counts == "first":
        count_GE = over_assignments((routing.choices_A == 0).float())
    else:
        count_GE = over_assignments(torch.ones_like(routing.weights_A))
    return BalanceSums(
        count_GE=count_GE,
        prob_GE=over_tokens(routing.probs_TE),
        weight_GE=over_assignments(routing.weights_A),
        smooth_load_GE=None if routing.smooth_load_TE is None else over_tokens(routing.smooth_load_TE),
    )


def _most_probable(routing: Routing) -> Tensor:
    """float32 [T, E], 1 for each token's top_k most probable experts."""
    probs_TE = routing.probs_TE.detach()
    return torch.zeros_like(probs_TE).scatter_(1, probs_TE.topk(routing.top_k, dim=-1).indices, 1.0)
