"""Top-k with fixed noise before the softmax, the router of V-MoE.

Knows the equations of Riquelme et al. (arXiv 2106.05974). Must not know dispatch, where its batch priority lives.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from moecli.errors import FieldProblem
from moecli.moe.routers.base import TokenChoiceConfig, TokenChoiceRouter, float32_logits, token_choice
from moecli.moe.routing import Routing, Tokens
from moecli.moe.weight_sum import WeightSum

SMALLEST_NOISE = 1e-3


class VMoETopKConfig(TokenChoiceConfig):
    """Options of the `vmoe_topk` router."""

    kind: Literal["vmoe_topk"] = "vmoe_topk"
    noise_std: Annotated[float, Interval(ge=0, le=1000)] = 1.0
    """In training, spread of the noise on the logits, in units of 1 / num_experts."""

    def problems(self) -> list[FieldProblem]:
        if not 0 < self.noise_std < SMALLEST_NOISE:
            return []
        return [FieldProblem("noise_std", "the load estimate divides by it", allowed=f"0, or {SMALLEST_NOISE} or more")]

    def weight_sum(self, num_experts: int) -> WeightSum:
        return WeightSum(self.top_k / num_experts, is_constant=self.top_k == num_experts)

    def estimates_load(self, num_experts: int) -> bool:
        return self.noise_std > 0


class VMoETopKRouter(TokenChoiceRouter):
    """g = softmax(x W^T + eps), eps normal with deviation noise_std / E, in training only; the k largest g are the weights as they are.

    (arXiv 2106.05974, section 2.2.) In training, `smooth_load_TE` is the probability that a fresh draw of the noise lifts expert i over the
    k-th largest noisy logit (appendix A; unlike Shazeer's, that threshold includes expert i itself).
    """

    config_class = VMoETopKConfig
    kept_floats_per_expert = 4  # beside the usual: the noisy logits, and what the load estimate is made of
    config: VMoETopKConfig

    def __init__(self, config: VMoETopKConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        clean_TE = float32_logits(x_BSD, self.weight)
        noisy_TE, smooth_load_TE = clean_TE, None
        if self.training and self.config.noise_std > 0:
            noise_std = self.config.noise_std / clean_TE.shape[1]
            noisy_TE = clean_TE + torch.randn_like(clean_TE) * noise_std
            threshold_T1 = noisy_TE.topk(self.config.top_k, dim=-1).values[:, -1:]
            smooth_load_TE = torch.special.ndtr((clean_TE - threshold_T1) / noise_std)
        weights_TK, expert_ids_TK = noisy_TE.softmax(dim=-1).topk(self.config.top_k, dim=-1)
        return token_choice(
            clean_TE,
            clean_TE.softmax(dim=-1),
            expert_ids_TK,
            weights_TK,
            seq_len=x_BSD.shape[1],
            tokens=tokens,
            smooth_load_TE=smooth_load_TE,
        )
