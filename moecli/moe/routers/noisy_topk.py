"""Noisy top-k gating, the router of the first sparsely-gated MoE.

Knows the equations of Shazeer et al. (arXiv 1701.06538). Must not know dispatch, experts, losses or training.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moecli.errors import FieldProblem
from moecli.moe.routers.base import TokenChoiceConfig, TokenChoiceRouter, float32_logits, token_choice
from moecli.moe.routing import Routing, Tokens

# Tensor2Tensor's floor of the noise's spread: without it the load estimate divides by 0 where softplus vanishes.
MIN_NOISE_STD = 1e-2


class NoisyTopKConfig(TokenChoiceConfig):
    """Options of the `noisy_topk` router."""

    kind: Literal["noisy_topk"] = "noisy_topk"

    def learning_problems_with(self, num_experts: int) -> list[FieldProblem]:
        if self.top_k > 1 or num_experts == 1:
            return []
        what = "with top_k 1 every weight is 1, and the router would learn nothing from the language-model loss"
        return [FieldProblem("top_k", what, allowed=f"2 to num_experts ({num_experts})")]

    def estimates_load(self, num_experts: int) -> bool:
        return self.top_k < num_experts


class NoisyTopKRouter(TokenChoiceRouter):
    """H(x) = x W_g + eps * softplus(x W_noise), G(x) = softmax over the k largest of H (arXiv 1701.06538, eq. 3-5).

    eps is standard normal per token and expert, in training only. Both matrices begin at zero (appendix A): no signal and some noise.
    In training, `smooth_load_TE` is P(x, i) of eq. 8-9. Departure: 0.01 is added to softplus, as Tensor2Tensor does.
    """

    config_class = NoisyTopKConfig
    config: NoisyTopKConfig
    kept_floats_per_expert = 7  # beside the usual: the noise and its spread, and what the load estimate is made of

    def __init__(self, config: NoisyTopKConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))
        self.noise_weight = nn.Parameter(torch.empty(num_experts, d_model))

    def init_weights(self, generator: Generator) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.noise_weight)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        clean_TE = float32_logits(x_BSD, self.weight)
        noisy_TE, smooth_load_TE = clean_TE, None
        if self.training:
            noise_std_TE = F.softplus(float32_logits(x_BSD, self.noise_weight)) + MIN_NOISE_STD
            noisy_TE = clean_TE + torch.randn_like(clean_TE) * noise_std_TE
            if self.config.estimates_load(clean_TE.shape[1]):
                smooth_load_TE = prob_in_top_k(clean_TE, noisy_TE, noise_std_TE, self.config.top_k)
        chosen_TK, expert_ids_TK = noisy_TE.topk(self.config.top_k, dim=-1)
        return token_choice(
            clean_TE,
            clean_TE.softmax(dim=-1),
            expert_ids_TK,
            chosen_TK.softmax(dim=-1),
            seq_len=x_BSD.shape[1],
            tokens=tokens,
            smooth_load_TE=smooth_load_TE,
        )


def prob_in_top_k(clean_TE: Tensor, noisy_TE: Tensor, noise_std_TE: Tensor, top_k: int) -> Tensor:
    """P(x, i) = Phi((clean_i - kth largest of the other noisy logits) / std_i), eq. 8-9; needs top_k < E."""
    largest = noisy_TE.topk(top_k + 1, dim=-1).values
    # Without expert i, the k-th largest is the (k+1)-th of all if i is among the first k, else the k-th of all.
    is_in = noisy_TE > largest[:, top_k:]
    threshold_TE = torch.where(is_in, largest[:, top_k:], largest[:, top_k - 1 : top_k])
    return torch.special.ndtr((clean_TE - threshold_TE) / noise_std_TE)
