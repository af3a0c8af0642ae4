"""Expert choice: each expert takes its best tokens, so the load is even by construction.

Knows the equations of Zhou et al. (arXiv 2202.09368). Must not know experts, losses or training.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from moecli.config import PositiveFloat
from moecli.errors import FieldProblem
from moecli.moe.causality import Leak
from moecli.moe.routers.base import Router, RouterConfig, float32_logits, padding_of
from moecli.moe.routing import Routing, Tokens
from moecli.moe.weight_sum import WeightSum


class ExpertChoiceConfig(RouterConfig):
    """Options of the `expert_choice` router."""

    fixes_load: ClassVar[bool] = True

    kind: Literal["expert_choice"] = "expert_choice"
    experts_per_token: PositiveFloat = 2.0
    """Experts that a token gets on average: of the N tokens of a pool each expert takes experts_per_token * N / num_experts, rounded up."""
    pool: Literal["sequence", "batch"] = "sequence"
    """What an expert chooses among: the tokens of a sequence, which is not causal, or those at one position of all sequences."""

    def weight_sum(self, num_experts: int) -> WeightSum:
        return WeightSum(self.experts_per_token / num_experts, is_constant=self.experts_per_token == num_experts)

    def leaks(self, num_experts: int) -> list[Leak]:
        if self.experts_per_token == num_experts:  # every expert takes every token
            return []
        if self.pool == "sequence":
            why = "a later token with a higher score evicts an earlier one from an expert's choice"
            return [Leak("future", "pool", why, "pool: batch, or a router in which tokens choose, such as kind: topk")]
        why = "the sequences of a batch compete for each expert"
        return [Leak("rows", "pool", why, "a router in which tokens choose, such as kind: topk")]

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        if self.experts_per_token <= num_experts:
            return []
        what = f"more experts per token than there are experts ({num_experts})"
        return [FieldProblem("experts_per_token", what, allowed=f"more than 0, up to num_experts ({num_experts})")]

    def problems_with_batches(self, sizes: dict[str, int], seq_len: int, num_experts: int) -> list[FieldProblem]:
        pools = {"data.seq_len": seq_len} if self.pool == "sequence" else sizes
        problems = []
        for key, size in pools.items():
            taken = self.experts_per_token * size / num_experts
            # Rounding up a sequence's many tokens is a small thing, rounding up a few sequences is another model.
            if taken < 1 or (self.pool == "batch" and abs(taken - round(taken)) > 1e-9):
                what = f"leaves each of {num_experts} experts {taken:.4g} of {key} ({size})"
                allowed = f"experts_per_token * {size} / {num_experts} {'1 or more' if self.pool == 'sequence' else 'a whole number'}"
                problems.append(FieldProblem("experts_per_token", what, allowed=allowed, involves=("pool",)))
        return problems

    def tokens_per_expert(self, pool_size: int, num_experts: int) -> int:
        """C, how many tokens of a pool an expert takes."""
        # The small number keeps products such as 1.1 * 10 from being rounded up to 12.
        return min(pool_size, max(1, math.ceil(self.experts_per_token * pool_size / num_experts - 1e-9)))


class ExpertChoiceRouter(Router):
    """S = softmax over experts of x W^T; expert e takes the C tokens of its pool with the largest S_te, which is also their weight.

    (arXiv 2202.09368, section 3.2, eq. 1-2; without its optional cap on experts per token.) With `pool: batch` a pool is one position of
    all sequences, which keeps the future out (as llm-random's group_by_batch). There a sequence that comes alone gets every expert.
    """

    config_class = ExpertChoiceConfig

    def __init__(self, config: ExpertChoiceConfig, d_model: int, num_experts: int) -> None:
        super().__init__(config, d_model, num_experts)
        self.config = config
        self.weight = nn.Parameter(torch.empty(num_experts, d_model))

    @property
    def assignments_per_token(self) -> float:
        return self.config.experts_per_token

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> Routing:
        batch_size, seq_len, _ = x_BSD.shape
        logits_TE = float32_logits(x_BSD, self.weight)
        probs_TE = logits_TE.softmax(dim=-1)
        token_ids_BS = torch.arange(batch_size * seq_len, device=x_BSD.device).view(batch_size, seq_len)
        # One pool a row: G pools of N tokens.
        token_ids_GN = token_ids_BS if self.config.pool == "sequence" else token_ids_BS.T
        is_padding_T = padding_of(tokens)
        scores_TE = probs_TE if is_padding_T is None else probs_TE.masked_fill(is_padding_T[:, None], -1.0)  # below any probability
        num_taken = self.config.tokens_per_expert(token_ids_GN.shape[1], probs_TE.shape[1])
        weights_GEC, places_GEC = scores_TE[token_ids_GN].transpose(1, 2).topk(num_taken, dim=-1)
        token_ids_A = token_ids_GN[:, None, :].expand(-1, probs_TE.shape[1], -1).gather(2, places_GEC).flatten()
        expert_ids_A = torch.arange(probs_TE.shape[1], device=x_BSD.device)[:, None].expand_as(places_GEC).flatten()
        weights_A = weights_GEC.flatten()
        if is_padding_T is not None:
            is_token_A = ~is_padding_T[token_ids_A]
            token_ids_A, expert_ids_A, weights_A = token_ids_A[is_token_A], expert_ids_A[is_token_A], weights_A[is_token_A]
        return Routing(
            logits_TE=logits_TE,
            probs_TE=probs_TE,
            token_ids_A=token_ids_A,
            expert_ids_A=expert_ids_A,
            weights_A=weights_A,
            choices_A=torch.zeros_like(expert_ids_A),
            top_k=probs_TE.shape[1],
            seq_len=seq_len,
            is_padding_T=is_padding_T,
        )
