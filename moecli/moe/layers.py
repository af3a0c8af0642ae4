"""The feed-forward kinds: `mlp`, `dense` and `sparse`, one interface, forward(x_BSD) -> (y_BSD, RoutingRecord | None).

Knows routers, dispatch and experts. Must not know attention, recipes or training.
A new kind is a config, a class and a line in FEED_FORWARDS. Shape letters: see routing.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.config import KindConfig, NonNegativeInt, OneOf, PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.activations import ACTIVATIONS, ActivationName
from moecli.moe.dispatch import count_load, dispatch_dropless
from moecli.moe.experts import Experts
from moecli.moe.routers import ROUTERS, RouterConfig, TopKConfig
from moecli.moe.routers.base import float32_logits
from moecli.moe.routing import Routing, RoutingRecord


class FeedForwardConfig(KindConfig):
    """Base of the configs of feed-forward kinds."""

    def with_default_widths(self, d_model: int) -> FeedForwardConfig:
        """The same config with every width filled in that the recipe leaves to its default."""
        raise TypeError(f"{type(self).__name__} has to say its default widths")


class MLPConfig(FeedForwardConfig):
    """One feed-forward network: the dense baseline."""

    kind: Literal["mlp"] = "mlp"
    d_ff: PositiveInt | None = None
    """Hidden width. Default: 4 * d_model."""

    def with_default_widths(self, d_model: int) -> MLPConfig:
        return self.model_copy(update={"d_ff": self.d_ff or 4 * d_model})


class DenseMoEConfig(FeedForwardConfig):
    """Dense MoE: every expert on every token."""

    kind: Literal["dense"] = "dense"
    num_experts: PositiveInt = 8
    """Experts per layer."""
    d_expert: PositiveInt | None = None
    """Hidden width of one expert. Default: 4 * d_model."""

    def with_default_widths(self, d_model: int) -> DenseMoEConfig:
        return self.model_copy(update={"d_expert": self.d_expert or 4 * d_model})


class SparseMoEConfig(FeedForwardConfig):
    """A router, the experts that it chooses among, and shared experts that every token uses, if any."""

    kind: Literal["sparse"] = "sparse"
    num_experts: PositiveInt = 8
    """Routed experts per layer."""
    d_expert: PositiveInt | None = None
    """Hidden width of one routed expert. Default: 4 * d_model."""
    router: Annotated[RouterConfig, OneOf({kind: router.config_class for kind, router in ROUTERS.items()}, default="topk")] = TopKConfig()
    """How tokens and experts find each other."""
    num_shared_experts: NonNegativeInt = 0
    """Experts that every token uses beside the routed ones (DeepSeekMoE)."""
    d_shared_expert: PositiveInt | None = None
    """Hidden width of one shared expert. Default: d_expert."""
    shared_gate: bool = False
    """Multiply the shared experts' output by sigmoid(x w), as Qwen1.5-MoE does."""

    def with_default_widths(self, d_model: int) -> SparseMoEConfig:
        d_expert = self.d_expert or 4 * d_model
        return self.model_copy(update={"d_expert": d_expert, "d_shared_expert": self.d_shared_expert or d_expert})

    def problems(self) -> list[FieldProblem]:
        problems = [
            FieldProblem(
                f"router.{problem.field}",
                problem.what,
                allowed=problem.allowed,
                involves=("num_experts", *(f"router.{field}" for field in problem.involves)),
            )
            for problem in self.router.problems_with(self.num_experts)
        ]
        if self.shared_gate and not self.num_shared_experts:
            problems.append(
                FieldProblem(
                    "shared_gate",
                    "there is no shared expert to gate",
                    allowed="false, or num_shared_experts of 1 or more",
                    involves=("num_shared_experts",),
                )
            )
        return problems


class FeedForward(nn.Module, ABC):
    """Base of the feed-forward kinds. Built from (config, d_model, activation), with the config's widths filled in."""

    config_class: ClassVar[type[FeedForwardConfig]]

    @property
    def num_active_params(self) -> int:
        """Parameters that one token uses."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RoutingRecord | None]: ...


class MLP(FeedForward):
    """out(activation(in(x))), no biases, no record."""

    config_class = MLPConfig

    def __init__(self, config: MLPConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.activation = ACTIVATIONS[activation]
        self.in_proj = nn.Linear(d_model, self.activation.in_width(config.d_ff), bias=False)
        self.out_proj = nn.Linear(config.d_ff, d_model, bias=False)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, None]:
        return self.out_proj(self.activation.function(self.in_proj(x_BSD))), None


class DenseMoE(FeedForward):
    """y = sum_e softmax(x W^T)_e Expert_e(x): all experts on all tokens (Jacobs et al. 1991, eq. 1.1 with a softmax gate)."""

    config_class = DenseMoEConfig

    def __init__(self, config: DenseMoEConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_expert is not None
        self.gate_weight = nn.Parameter(torch.empty(config.num_experts, d_model))
        self.experts = Experts(config.num_experts, d_model, config.d_expert, activation)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RoutingRecord]:
        logits_TE = float32_logits(x_BSD, self.gate_weight)
        probs_TE = logits_TE.softmax(dim=-1)
        y_TD = self.experts.forward_all(x_BSD.flatten(0, 1), probs_TE)
        return y_TD.view_as(x_BSD), _record_of_all(logits_TE, probs_TE)


class SparseMoE(FeedForward):
    """Routed experts, of which each token uses a few.

    1. The router scores the experts and chooses: a list of (token, expert, weight).
    2. Dispatch sorts the list by expert.
    3. The experts run on their queues, and the weighted outputs are added to their tokens.
    4. The shared experts, one MLP of their joint width, are added for every token.
    """

    config_class = SparseMoEConfig

    def __init__(self, config: SparseMoEConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_expert is not None and config.d_shared_expert is not None
        self.router = ROUTERS[config.router.kind](config.router, d_model, config.num_experts)
        self.experts = Experts(config.num_experts, d_model, config.d_expert, activation)
        d_shared = config.num_shared_experts * config.d_shared_expert
        self.shared = MLP(MLPConfig(d_ff=d_shared), d_model, activation) if d_shared else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if config.shared_gate else None

    @property
    def num_active_params(self) -> int:
        idle_experts = self.experts.num_experts - self.router.assignments_per_token
        return super().num_active_params - round(idle_experts * self.experts.params_per_expert)

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, RoutingRecord]:
        queues, record = dispatch_dropless(self.router(x_BSD))
        y_BSD = self.experts(x_BSD.flatten(0, 1), queues).view_as(x_BSD)
        if self.shared is not None:
            y_BSD = y_BSD + self._shared_output(x_BSD, self.shared)
        return y_BSD, record

    def _shared_output(self, x_BSD: Tensor, shared: MLP) -> Tensor:
        shared_BSD, _ = shared(x_BSD)
        if self.shared_gate is None:
            return shared_BSD
        return F.sigmoid(self.shared_gate(x_BSD)) * shared_BSD


def _record_of_all(logits_TE: Tensor, probs_TE: Tensor) -> RoutingRecord:
    """The record of a layer in which every token goes to every expert."""
    num_tokens, num_experts = probs_TE.shape
    device = probs_TE.device
    expert_ids_A = torch.arange(num_experts, device=device).repeat(num_tokens)
    routing = Routing(
        logits_TE=logits_TE,
        probs_TE=probs_TE,
        token_ids_A=torch.arange(num_tokens, device=device).repeat_interleave(num_experts),
        expert_ids_A=expert_ids_A,
        weights_A=probs_TE.flatten(),
    )
    load_E = count_load(expert_ids_A, num_experts)
    return RoutingRecord(routing, chosen_load_E=load_E, load_E=load_E, kept_A=torch.ones_like(expert_ids_A, dtype=torch.bool))


FEED_FORWARDS: dict[str, type[FeedForward]] = {
    "mlp": MLP,
    "dense": DenseMoE,
    "sparse": SparseMoE,
}
