"""The contract of the MoE layer: what a router decided, and what a layer reports.

Knows shapes and nothing else. Must not know which router filled a Routing or who reads it.

Shape letters, here and in all of moecli:
    B sequences   S positions        T tokens (B * S, row by row)   D model width
    E experts     A assignments      K choices of one token         H expert width
    G groups      P slots per expert
    F width of the input projection (2H with a gate, else H)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a later token may know of the tokens of its sequence that went through the model in earlier passes."""

    num_tokens_B: Tensor
    """int64, without padding."""
    bits_B: Tensor
    """int64: a number that looks random for each sequence of ids (id_hash.prefix_bits)."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a layer may know of its tokens beside their features."""

    ids_BS: Tensor
    """int64 token ids; the `hash` router goes by them, and in evaluation the `random` one."""
    is_padding_BS: Tensor | None = None
    """bool, True where a token only fills up its sequence: it gets no expert, takes no room and counts in no loss. None: no padding."""
    before: Prefix | None = None
    """Where a cache holds the sequences' earlier tokens. None: the sequences begin here."""


@dataclass(frozen=True, slots=True)
class Routing:
    """A router's decision as a list of (token, expert, weight) assignments.

    Token choice lists token by token, each token's best expert first; expert choice lists sequence by sequence or position by position.
    """

    logits_TE: Tensor
    """float32, before noise and bias (noise on the router's input is in them)."""
    probs_TE: Tensor
    """float32, the full distribution over the experts, before noise, bias and choice; rows sum to 1."""
    token_ids_A: Tensor
    """int64, into the T tokens of the layer's input."""
    expert_ids_A: Tensor
    """int64."""
    weights_A: Tensor
    """float32 combine weights; the gradient of the router flows through them."""
    choices_A: Tensor
    """int64: 0 for a token's first choice, 1 for its second, and so on; all 0 where experts choose."""
    top_k: int
    """The most experts that a token can get."""
    seq_len: int
    """S: token t is position t % S of sequence t // S."""
    smooth_load_TE: Tensor | None = None
    """float32: the probability that a token would choose an expert if the noise were drawn again; None without noise."""
    is_padding_T: Tensor | None = None
    """bool; None without padding. Padding has no assignments."""
    has_all_choices: bool = False
    """Whether the list holds `top_k` assignments of every token, token by token."""

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
    """int64, assignments per expert that were computed: the chosen less the dropped, each counted where it ran."""
    kept_A: Tensor
    """bool, which assignments were computed."""
    final_expert_ids_A: Tensor
    """int64: where each ran: the router's choice, unless that was full and another expert had room."""

    @property
    def num_moved(self) -> Tensor:
        """int64: how many ran on another expert than the router's choice."""
        return (self.kept_A & (self.final_expert_ids_A != self.routing.expert_ids_A)).sum()
