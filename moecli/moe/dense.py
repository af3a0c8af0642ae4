"""Dense MoE: every expert on every token.

Knows experts. Must not know routers. Shape letters: see routing.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from moecli.config import PositiveInt
from moecli.moe.activations import ActivationName
from moecli.moe.dispatch import count_load
from moecli.moe.experts import Experts
from moecli.moe.feed_forward import FeedForward, FeedForwardConfig
from moecli.moe.routers.base import float32_logits, padding_of
from moecli.moe.routing import Routing, RoutingRecord, Tokens


class DenseMoEConfig(FeedForwardConfig):
    """Dense MoE: every expert on every token."""

    kind: Literal["dense"] = "dense"
    num_experts: PositiveInt = 8
    """Experts per layer."""
    d_expert: PositiveInt | None = None
    """Hidden width of one expert. Default: 4 * d_model."""

    @property
    def learns_routing(self) -> bool:
        return True

    @property
    def mixes_by_weights(self) -> bool:
        return True

    def with_default_widths(self, d_model: int) -> DenseMoEConfig:
        return self.model_copy(update={"d_expert": self.d_expert or 4 * d_model})


class DenseMoE(FeedForward):
    """y = sum_e softmax(x W^T)_e Expert_e(x): all experts on all tokens (Jacobs et al. 1991, eq. 1.1 with a softmax gate)."""

    config_class = DenseMoEConfig

    def __init__(self, config: DenseMoEConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_expert is not None
        self.gate_weight = nn.Parameter(torch.empty(config.num_experts, d_model))
        self.experts = Experts(config.num_experts, d_model, config.d_expert, activation)

    @property
    def expert_outputs(self) -> tuple[Tensor, ...]:
        return (self.experts.out_proj,)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, RoutingRecord]:
        logits_TE = float32_logits(x_BSD, self.gate_weight)
        probs_TE = logits_TE.softmax(dim=-1)
        y_TD = self.experts.forward_all(x_BSD.flatten(0, 1), probs_TE)
        return y_TD.view_as(x_BSD), record_of_all(logits_TE, probs_TE, probs_TE, x_BSD.shape[1], tokens)


def record_of_all(logits_TE: Tensor, probs_TE: Tensor, weights_TE: Tensor, seq_len: int, tokens: Tokens | None) -> RoutingRecord:
    """The record of a layer in which every expert works for every token."""
    num_tokens, num_experts = probs_TE.shape
    expert_ids_TE = torch.arange(num_experts, device=probs_TE.device).expand(num_tokens, -1)
    token_ids_TE = torch.arange(num_tokens, device=probs_TE.device)[:, None].expand(-1, num_experts)
    is_padding_T = padding_of(tokens)
    is_kept_T = slice(None) if is_padding_T is None else ~is_padding_T
    expert_ids_A = expert_ids_TE[is_kept_T].flatten()
    routing = Routing(
        logits_TE=logits_TE,
        probs_TE=probs_TE,
        token_ids_A=token_ids_TE[is_kept_T].flatten(),
        expert_ids_A=expert_ids_A,
        weights_A=weights_TE[is_kept_T].flatten(),
        choices_A=torch.zeros_like(expert_ids_A),
        top_k=num_experts,
        seq_len=seq_len,
        is_padding_T=is_padding_T,
    )
    load_E = count_load(expert_ids_A, num_experts)
    kept_A = torch.ones_like(expert_ids_A, dtype=torch.bool)
    return RoutingRecord(routing, chosen_load_E=load_E, load_E=load_E, kept_A=kept_A, final_expert_ids_A=expert_ids_A)
