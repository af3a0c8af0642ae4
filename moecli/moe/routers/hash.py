"""Hash routing: a token's id alone decides its experts. A control that a learned router has to beat.

Knows token ids. Must not know what the ids spell, nor look at the features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from moecli.config import NonNegativeInt, PositiveInt
from moecli.moe.id_hash import mixed_bits
from moecli.moe.routers.base import TokenChoiceConfig, TokenChoiceRouter, token_choice
from moecli.moe.routing import Routing, Tokens


class HashConfig(TokenChoiceConfig):
    """Options of the `hash` router."""

    learns: ClassVar[bool] = False
    weighs_evenly: ClassVar[bool] = True

    kind: Literal["hash"] = "hash"
    top_k: PositiveInt = 1
    """Experts per token."""
    seed: NonNegativeInt = 0
    """Another seed is another hash."""


class HashRouter(TokenChoiceRouter):
    """Each token id has k experts of its own, drawn once and for all, each with weight 1/k; nothing is learned.

    (Hash Layers, arXiv 2106.04426, section 3.1, random hash. Departure: its paper has k = 1.) Every layer uses the same hash.
    """

    config_class = HashConfig
    kept_floats_per_expert = 0  # nothing is learned
    config: HashConfig

    def __init__(self, config: HashConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.num_experts = num_experts

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        assert tokens is not None, "the hash router goes by token ids"
        draws_TE = mixed_bits(tokens.ids_BS.flatten(), self.num_experts, self.config.seed)
        return even_choice(draws_TE, self.config.top_k, x_BSD.shape[1], tokens)


def even_choice(draws_TE: Tensor, top_k: int, seq_len: int, tokens: Tokens | None) -> Routing:
    """The k experts with the largest draws, each with weight 1/k, under a distribution that knows nothing."""
    num_tokens, num_experts = draws_TE.shape
    expert_ids_TK = draws_TE.topk(top_k, dim=-1).indices
    zeros_TE = torch.zeros(num_tokens, num_experts, device=draws_TE.device)
    weights_TK = torch.full(expert_ids_TK.shape, 1 / top_k, device=draws_TE.device)
    return token_choice(zeros_TE, zeros_TE + 1 / num_experts, expert_ids_TK, weights_TK, seq_len=seq_len, tokens=tokens)
