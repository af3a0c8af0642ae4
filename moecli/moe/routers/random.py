"""Random routing: experts are drawn, whatever the token. A control that a learned router has to beat.

Knows positions. Must not look at the features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from moecli.config import NonNegativeInt
from moecli.moe.routers.base import TokenChoiceConfig, TokenChoiceRouter
from moecli.moe.routers.hash import even_choice, mixed_bits
from moecli.moe.routing import Routing, Tokens


class RandomConfig(TokenChoiceConfig):
    """Options of the `random` router."""

    ignores_tokens: ClassVar[bool] = True
    learns: ClassVar[bool] = False
    weighs_evenly: ClassVar[bool] = True

    kind: Literal["random"] = "random"
    seed: NonNegativeInt = 0
    """Decides the draws in evaluation."""


class RandomRouter(TokenChoiceRouter):
    """k experts out of E with equal chances, each with weight 1/k; nothing is learned.

    In training the draws are fresh for each token and step. In evaluation position and
    `seed` decide them, alike in every layer, so that a loss can be measured twice.
    """

    config_class = RandomConfig
    config: RandomConfig

    def __init__(self, config: RandomConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.num_experts = num_experts

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        batch_size, seq_len, _ = x_BSD.shape
        if self.training:
            draws_TE = torch.rand(batch_size * seq_len, self.num_experts, device=x_BSD.device)
        else:
            positions_T = torch.arange(seq_len, device=x_BSD.device).repeat(batch_size)
            draws_TE = mixed_bits(positions_T, self.num_experts, self.config.seed)
        return even_choice(draws_TE, self.config.top_k, seq_len, tokens)
