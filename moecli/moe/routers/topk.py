"""Top-k token choice on a softmax: Switch (top_k 1), GShard, ST-MoE, GLaM, Mixtral, OLMoE and Qwen MoE by its options.

Knows the equations of those papers. Must not know dispatch, experts, losses or training.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from moecli.config import Fraction, PositiveFloat
from moecli.errors import FieldProblem
from moecli.moe.routers.base import ScoredChoiceConfig, TokenChoiceRouter, float32_logits, normalized, token_choice
from moecli.moe.routing import Routing, Tokens
from moecli.moe.weight_sum import WeightSum


class TopKConfig(ScoredChoiceConfig):
    """Options of the `topk` router."""

    kind: Literal["topk"] = "topk"
    input_jitter: Fraction = 0.0
    """In training, multiply the router's input by noise from 1 - this to 1 + this (Switch: 0.01)."""
    keep_threshold: PositiveFloat | None = None
    """In training, keep each choice after the first with probability min(1, normalised weight / this): 0.5 is GShard, 0.2 ST-MoE."""
    selection_bias: bool = False
    """Add a bias to the probabilities for the choice alone, never to the weights; training.bias_update moves it."""

    @property
    def has_selection_bias(self) -> bool:
        return self.selection_bias

    def weight_sum(self, num_experts: int) -> WeightSum:
        return WeightSum(1.0) if self.normalize_weights else WeightSum(self.top_k / num_experts, is_constant=self.top_k == num_experts)

    def problems(self) -> list[FieldProblem]:
        problems = super().problems()
        if self.top_k == 1 and self.keep_threshold is not None:
            what = "with top_k 1 there is no choice after the first"
            problems.append(FieldProblem("keep_threshold", what, allowed="null, or top_k of 2 or more", involves=("top_k",)))
        return problems


class TopKRouter(TokenChoiceRouter):
    """Each token takes its k most probable experts.

    p = softmax(x W^T) over all experts in float32; the weights are the k largest p, divided by their sum if `normalize_weights`
    (Switch, arXiv 2101.03961, eq. 1-2; Mixtral, arXiv 2401.04088, section 2.1, whose softmax over the chosen logits is the same number).
    With `keep_threshold` the weights are normalised before the toss (GShard, arXiv 2006.16668, algorithm 1). Departures: a choice that
    loses the toss takes no room at its expert, and in evaluation all are kept. With `selection_bias` the k largest p + b are chosen
    (arXiv 2408.15664, eq. 3, with the softmax gate of its appendix C.2).
    """

    config_class = TopKConfig
    config: TopKConfig

    def __init__(self, config: TopKConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))
        self.selection_bias_E = torch.zeros(num_experts) if config.selection_bias else None

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        logits_TE = float32_logits(self._jittered(x_BSD), self.weight)
        probs_TE = logits_TE.softmax(dim=-1)
        weights_TK, expert_ids_TK = self._choose(probs_TE)
        normalized_TK = normalized(weights_TK)
        return token_choice(
            logits_TE,
            probs_TE,
            expert_ids_TK,
            normalized_TK if self.config.normalize_weights else weights_TK,
            seq_len=x_BSD.shape[1],
            tokens=tokens,
            is_kept_TK=self._toss(normalized_TK.detach()),
        )

    def _jittered(self, x_BSD: Tensor) -> Tensor:
        jitter = self.config.input_jitter
        if not self.training or jitter == 0:
            return x_BSD
        return x_BSD.float() * torch.empty_like(x_BSD, dtype=torch.float32).uniform_(1 - jitter, 1 + jitter)

    def _choose(self, probs_TE: Tensor) -> tuple[Tensor, Tensor]:
        if self.selection_bias_E is None:
            return probs_TE.topk(self.config.top_k, dim=-1)
        expert_ids_TK = (probs_TE.detach() + self.selection_bias_E).topk(self.config.top_k, dim=-1).indices
        return probs_TE.gather(1, expert_ids_TK), expert_ids_TK

    def _toss(self, normalized_TK: Tensor) -> Tensor | None:
        """Which choices are kept; None for all."""
        threshold = self.config.keep_threshold
        if not self.training or threshold is None:
            return None
        is_kept_TK = torch.rand_like(normalized_TK) * threshold < normalized_TK
        is_kept_TK[:, 0] = True
        return is_kept_TK
