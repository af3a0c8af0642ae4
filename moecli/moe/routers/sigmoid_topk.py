"""Top-k on sigmoid scores with a bias for the choice and groups of experts, the router of DeepSeek-V3 and GLM-4.5.

Knows the equations of DeepSeek-V3 (arXiv 2412.19437). Must not know how the bias is moved: that is balancing.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from moecli.config import PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.routers.base import ScoredChoiceConfig, TokenChoiceRouter, float32_logits, normalized, token_choice
from moecli.moe.routing import Routing, Tokens
from moecli.moe.weight_sum import WeightSum


class SigmoidTopKConfig(ScoredChoiceConfig):
    """Options of the `sigmoid_topk` router."""

    kind: Literal["sigmoid_topk"] = "sigmoid_topk"
    scale: Annotated[float, Interval(gt=0, le=1000)] = 1.0
    """Multiplies the weights after that (DeepSeek-V3: 2.5)."""
    selection_bias: bool = True
    """Add a bias to the scores for the choice alone, never to the weights; training.bias_update moves it."""
    num_groups: PositiveInt = 1
    """Groups that the experts are divided into, in order."""
    top_groups: PositiveInt = 1
    """Groups that a token may take its experts from: those with the best score."""
    group_score: Literal["top2_sum", "max"] = "top2_sum"
    """A group's score: the sum of its two best experts (DeepSeek-V3), or its best one (DeepSeek-V2)."""

    @property
    def has_selection_bias(self) -> bool:
        return self.selection_bias

    def weight_sum(self, num_experts: int) -> WeightSum:
        return WeightSum(self.scale) if self.normalize_weights else WeightSum(self.scale * self.top_k / 2, is_constant=False)

    def problems(self) -> list[FieldProblem]:
        problems = super().problems()
        if self.top_groups > self.num_groups:
            what = f"more groups per token than there are groups ({self.num_groups})"
            problems.append(FieldProblem("top_groups", what, allowed=f"1 to num_groups ({self.num_groups})", involves=("num_groups",)))
        return problems

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        problems = super().problems_with(num_experts)
        if self.num_groups == 1:
            return problems
        if num_experts % self.num_groups:
            what = f"does not divide num_experts ({num_experts})"
            return [*problems, FieldProblem("num_groups", what, allowed="a divisor of num_experts")]
        group_size = num_experts // self.num_groups
        if self.group_score == "top2_sum" and group_size < 2:
            what = f"leaves groups of {group_size} expert, which have no two best"
            allowed = f"a divisor of num_experts ({num_experts}), half of it at most, or group_score: max"
            problems.append(FieldProblem("num_groups", what, allowed=allowed, involves=("group_score",)))
        if self.top_groups * group_size < self.top_k <= num_experts:
            what = f"leaves {self.top_groups * group_size} of {num_experts} experts to choose from, too few for top_k {self.top_k}"
            allowed = f"{-(-self.top_k // group_size)} or more, or a smaller top_k"
            problems.append(FieldProblem("top_groups", what, allowed=allowed, involves=("num_groups", "top_k")))
        return problems


class SigmoidTopKRouter(TokenChoiceRouter):
    """s = sigmoid(x W^T); the k largest s + b inside the best groups are chosen; the weights are scale * s / (sum of the chosen s).

    (arXiv 2412.19437, eq. 12-16, and its node-limited routing of section 2.1.2.) `probs_TE` is s divided by its sum over all experts
    (eq. 19).
    """

    config_class = SigmoidTopKConfig
    config: SigmoidTopKConfig

    def __init__(self, config: SigmoidTopKConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))
        self.selection_bias_E = torch.zeros(num_experts) if config.selection_bias else None

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        logits_TE = float32_logits(x_BSD, self.weight)
        scores_TE = logits_TE.sigmoid()
        choice_scores_TE = scores_TE.detach() if self.selection_bias_E is None else scores_TE.detach() + self.selection_bias_E
        expert_ids_TK = self._in_best_groups(choice_scores_TE).topk(self.config.top_k, dim=-1).indices
        weights_TK = scores_TE.gather(1, expert_ids_TK)
        if self.config.normalize_weights:
            weights_TK = normalized(weights_TK)
        return token_choice(
            logits_TE, normalized(scores_TE), expert_ids_TK, weights_TK * self.config.scale, seq_len=x_BSD.shape[1], tokens=tokens
        )

    def _in_best_groups(self, scores_TE: Tensor) -> Tensor:
        """The scores, with -inf for every expert outside the token's best groups."""
        if self.config.top_groups == self.config.num_groups:
            return scores_TE
        scores_TGN = scores_TE.unflatten(1, (self.config.num_groups, -1))
        num_scored = 1 if self.config.group_score == "max" else 2
        group_scores_TG = scores_TGN.topk(num_scored, dim=-1).values.sum(dim=-1)
        best_groups = group_scores_TG.topk(self.config.top_groups, dim=-1).indices
        is_outside_TG = torch.ones_like(group_scores_TG, dtype=torch.bool).scatter_(1, best_groups, False)
        return scores_TGN.masked_fill(is_outside_TG[:, :, None], float("-inf")).flatten(1)
