"""The contract of the MoE layer: what a router decided, and what a layer reports.

Knows shapes and nothing else. Must not know which router filled a Routing or who reads it.

Shape letters, here and in all of moecli:
    B sequences   S positions        T tokens (B * S)   D model width
    E experts     A assignments      H expert width     F width of the input projection (2H with a gate, else H)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Routing:
    """A router's decision as a list of (token, expert, weight) assignments, in order of priority.

    Token choice gives A = T * top_k assignments, token by token, best expert first.
    """

    logits_TE: Tensor
    """float32, before noise and bias."""
    probs_TE: Tensor
    """float32, the full distribution over the experts, before any choice."""
    token_ids_A: Tensor
    """int64, into the T tokens of the layer's input."""
    expert_ids_A: Tensor
    """int64."""
    weights_A: Tensor
    """float32 combine weights; the gradient of the router flows through them."""

    @property
    def num_experts(self) -> int:
        return self.logits_TE.shape[1]


@dataclass(frozen=True, slots=True)
class RoutingRecord:
    """What a routed layer reports beside its output. Losses read it with gradient, statistics detached."""

    routing: Routing
    chosen_load_E: Tensor
    """int64, assignments per expert as the router chose them."""
    load_E: Tensor
    """int64, assignments per expert that were computed: the chosen less the dropped."""
    kept_A: Tensor
    """bool, which assignments were computed."""
