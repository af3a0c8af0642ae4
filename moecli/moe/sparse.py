"""Sparse MoE: a router, a dispatch, the experts that they choose among, and shared experts if any.

Knows routers, dispatch and experts. Must not know attention, recipes or training. Shape letters: see routing.py.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from moecli.config import NonNegativeInt, OneOf, PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.activations import ActivationName
from moecli.moe.capacity import CapacityConfig
from moecli.moe.causality import Leak
from moecli.moe.dispatch import ExpertQueues, count_load, dispatch_dropless, dispatch_with_capacity, record_of_kept
from moecli.moe.experts import Experts
from moecli.moe.feed_forward import MLP, FeedForward, FeedForwardConfig, MLPConfig
from moecli.moe.routers import ROUTERS, RouterConfig, TopKConfig
from moecli.moe.routers.base import TokenChoiceConfig
from moecli.moe.routing import Routing, RoutingRecord, Tokens
from moecli.moe.weight_sum import WeightSum


class SparseMoEConfig(FeedForwardConfig):
    """A router, the experts that it chooses among, and shared experts that every token uses, if any."""

    kind: Literal["sparse"] = "sparse"
    num_experts: PositiveInt = 8
    """Routed experts per layer."""
    d_expert: PositiveInt | None = None
    """Hidden width of one routed expert. Default: 4 * d_model."""
    router: Annotated[RouterConfig, OneOf({kind: router.config_class for kind, router in ROUTERS.items()}, default="topk")] = TopKConfig()
    """How tokens and experts find each other."""
    capacity: CapacityConfig | None = None
    """Limits how many tokens an expert takes. Default: dropless, every expert takes all that come."""
    num_shared_experts: NonNegativeInt = 0
    """Experts that every token uses beside the routed ones (DeepSeekMoE)."""
    d_shared_expert: PositiveInt | None = None
    """Hidden width of one shared expert. Default: d_expert."""
    shared_gate: bool = False
    """Multiply the shared experts' output by sigmoid(x w), as Qwen1.5-MoE does."""

    @property
    def has_selection_bias(self) -> bool:
        return self.router.has_selection_bias

    @property
    def estimates_load(self) -> bool:
        return self.router.estimates_load(self.num_experts)

    @property
    def learns_routing(self) -> bool:
        return self.router.learns

    @property
    def mixes_by_weights(self) -> bool:
        return self.router.learns or self.shared_gate

    @property
    def goes_by_prefix(self) -> bool:
        return self.router.goes_by_prefix

    @property
    def num_routed_experts(self) -> int:
        return self.num_experts

    @property
    def weight_sum(self) -> WeightSum:
        return self.router.weight_sum(self.num_experts)

    def with_default_widths(self, d_model: int) -> SparseMoEConfig:
        d_expert = self.d_expert or 4 * d_model
        return self.model_copy(update={"d_expert": d_expert, "d_shared_expert": self.d_shared_expert or d_expert})

    def leaks(self) -> list[Leak]:
        router = self.router
        leaks = [leak.under("router") for leak in router.leaks(self.num_experts)]
        if self.capacity is not None and isinstance(router, TokenChoiceConfig):
            of_capacity = self.capacity.leaks(router.top_k, self.num_experts, weighs_evenly=router.weighs_evenly)
            leaks += [leak.under("capacity") for leak in of_capacity]
        return leaks

    def problems(self) -> list[FieldProblem]:
        of_router = self.router.problems_with(self.num_experts) + self.router.learning_problems_with(self.num_experts)
        problems = [problem.under("router", also_involves=("num_experts",)) for problem in of_router]
        if self.capacity is not None and self.router.fixes_load:
            what = f"the {self.router.kind} router gives every expert the same number of tokens, a capacity has nothing to limit"
            problems.append(FieldProblem("capacity", what, allowed="null with this router", involves=("router.kind",)))
        if self.shared_gate and not self.num_shared_experts:
            what = "there is no shared expert to gate"
            allowed = "false, or num_shared_experts of 1 or more"
            problems.append(FieldProblem("shared_gate", what, allowed=allowed, involves=("num_shared_experts",)))
        return problems

    def problems_with_batches(self, sizes: dict[str, int], seq_len: int) -> list[FieldProblem]:
        problems = self.router.problems_with_batches(sizes, seq_len, self.num_experts)
        return [problem.under("router", also_involves=("num_experts",)) for problem in problems]


class SparseMoE(FeedForward):
    """Routed experts, of which each token uses a few.

    1. The router scores the experts and chooses: a list of (token, expert, weight).
    2. Dispatch decides which of the list are kept, and sorts them by expert.
    3. The experts run on their queues, and the weighted outputs are added to their tokens.
    4. The shared experts, one MLP of their joint width, are added for every token.
    """

    config_class = SparseMoEConfig

    def __init__(self, config: SparseMoEConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_expert is not None and config.d_shared_expert is not None
        self.router = ROUTERS[config.router.kind](config.router, d_model, config.num_experts)
        self.capacity = config.capacity
        self.experts = Experts(config.num_experts, d_model, config.d_expert, activation)
        d_shared = config.num_shared_experts * config.d_shared_expert
        self.shared = MLP(MLPConfig(d_ff=d_shared), d_model, activation) if d_shared else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if config.shared_gate else None

    @property
    def num_active_params(self) -> int:
        idle_experts = self.experts.num_experts - self.router.assignments_per_token
        return super().num_active_params - round(idle_experts * self.experts.params_per_expert)

    @property
    def expert_outputs(self) -> tuple[Tensor, ...]:
        return (self.experts.out_proj,)

    @property
    def selection_bias_E(self) -> Tensor | None:
        return self.router.selection_bias_E

    def init_weights(self, generator: Generator) -> None:
        self.router.init_weights(generator)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, RoutingRecord]:
        routing, x_TD = self.router(x_BSD, tokens), x_BSD.flatten(0, 1)
        beside = None if self.shared is None else self._shared_output
        if self._capacity_factor is None and not self.experts.needs_queues(routing):
            record = record_of_kept(routing, count_load(routing.expert_ids_A, routing.num_experts))
            y_TD = self.experts.forward_unsorted(x_TD, routing)
            return (y_TD if beside is None else y_TD + beside(x_TD)).view_as(x_BSD), record
        queues, record = self._dispatch(routing)
        return self.experts(x_TD, queues, beside=beside).view_as(x_BSD), record

    @property
    def _capacity_factor(self) -> float | None:
        if self.capacity is None:
            return None
        return self.capacity.factor if self.training else self.capacity.eval_factor

    def _dispatch(self, routing: Routing) -> tuple[ExpertQueues, RoutingRecord]:
        factor = self._capacity_factor
        if factor is None:
            return dispatch_dropless(routing)
        assert self.capacity is not None
        return dispatch_with_capacity(routing, self.capacity, factor)

    def _shared_output(self, x_TD: Tensor) -> Tensor:
        assert self.shared is not None
        shared_TD, _ = self.shared(x_TD)
        if self.shared_gate is None:
            return shared_TD
        return F.sigmoid(self.shared_gate(x_TD)) * shared_TD
