"""Top-k token choice on a softmax: Switch (top_k 1), Mixtral, OLMoE and Qwen MoE by its two options.

Knows the equations of those papers. Must not know dispatch, experts, losses or training.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from moecli.config import PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.routers.base import Router, RouterConfig, float32_logits
from moecli.moe.routing import Routing


class TopKConfig(RouterConfig):
    """Options of the `topk` router."""

    kind: Literal["topk"] = "topk"
    top_k: PositiveInt = 2
    """Experts per token."""
    normalize_weights: bool | None = None
    """Divide the chosen probabilities by their sum, as Mixtral does; Switch, OLMoE and Qwen1.5-MoE don't. Default: true for top_k > 1."""

    def model_post_init(self, context: Any, /) -> None:
        if self.normalize_weights is None:
            object.__setattr__(self, "normalize_weights", self.top_k > 1)
        super().model_post_init(context)

    def problems(self) -> list[FieldProblem]:
        if self.top_k > 1 or not self.normalize_weights:
            return []
        what = "with top_k 1 every weight would be 1, and the router would learn nothing from the language-model loss"
        return [FieldProblem("normalize_weights", what, allowed="false with top_k 1", involves=("top_k",))]

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        if self.top_k <= num_experts:
            return []
        what = f"more experts per token than there are experts ({num_experts})"
        return [FieldProblem("top_k", what, allowed=f"1 to num_experts ({num_experts})")]


class TopKRouter(Router):
    """Each token takes its k most probable experts.

    p = softmax(x W^T) over all experts in float32; the weights are the k largest p, divided by their sum if `normalize_weights`
    (Switch, arXiv 2101.03961, eq. 1-2; Mixtral, arXiv 2401.04088, section 2.1, whose softmax over the chosen logits is the same number).
    """

    config_class = TopKConfig

    def __init__(self, config: TopKConfig, d_model: int, num_experts: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))

    @property
    def assignments_per_token(self) -> float:
        return self.config.top_k

    def forward(self, x_BSD: Tensor) -> Routing:
        logits_TE = float32_logits(x_BSD, self.weight)
        probs_TE = logits_TE.softmax(dim=-1)
        weights_TK, expert_ids_TK = probs_TE.topk(self.config.top_k, dim=-1)
        if self.config.normalize_weights:
            weights_TK = weights_TK / weights_TK.sum(dim=-1, keepdim=True)
        token_ids_T = torch.arange(probs_TE.shape[0], device=probs_TE.device)
        return Routing(
            logits_TE=logits_TE,
            probs_TE=probs_TE,
            token_ids_A=token_ids_T.repeat_interleave(self.config.top_k),
            expert_ids_A=expert_ids_TK.flatten(),
            weights_A=weights_TK.flatten(),
        )
