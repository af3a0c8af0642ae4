"""Random routing: experts are drawn, whatever the token. A control that a learned router has to beat.

Knows token ids. Must not know what the ids spell, nor look at the features.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from moecli.config import NonNegativeInt
from moecli.moe.id_hash import mixed_bits, prefix_bits
from moecli.moe.routers.base import TokenChoiceConfig, TokenChoiceRouter
from moecli.moe.routers.hash import even_choice
from moecli.moe.routing import Routing, Tokens


class RandomConfig(TokenChoiceConfig):
    """Options of the `random` router."""

    learns: ClassVar[bool] = False
    weighs_evenly: ClassVar[bool] = True
    goes_by_prefix: ClassVar[bool] = True

    kind: Literal["random"] = "random"
    seed: NonNegativeInt = 0
    """Another seed is other draws in evaluation."""


class RandomRouter(TokenChoiceRouter):
    """k experts out of E with equal chances, each with weight 1/k; nothing is learned.

    In training the draws are fresh for each token and step. In evaluation the ids of the sequence up to the token decide them, with
    `seed` and a number of the layer's own: they look as random, and a loss can be measured twice.
    """

    config_class = RandomConfig
    kept_floats_per_expert = 0  # nothing is learned
    config: RandomConfig
    layer_key: Tensor
    """int64 scalar, a buffer: sets the layer's draws in evaluation apart from those of other layers."""

    def __init__(self, config: RandomConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.num_experts = num_experts
        self.register_buffer("layer_key", torch.zeros((), dtype=torch.int64))

    def init_weights(self, generator: Generator) -> None:
        self.layer_key.random_(generator=generator)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        batch_size, seq_len, _ = x_BSD.shape
        if self.training:
            draws_TE = torch.rand(batch_size * seq_len, self.num_experts, device=x_BSD.device)
        else:
            assert tokens is not None, "in evaluation the random router goes by token ids"
            draws_TE = mixed_bits(prefix_bits(tokens).flatten() + self.layer_key, self.num_experts, self.config.seed)
        return even_choice(draws_TE, self.config.top_k, seq_len, tokens)
