"""What every feed-forward kind is, and the plainest of them, the MLP.

Knows the contract (routing.py). Must not know attention, recipes or training. Shape letters: see routing.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Generator, Tensor, nn

from moecli.config import KindConfig, PositiveInt
from moecli.errors import FieldProblem
from moecli.moe.activations import ACTIVATIONS, ActivationName
from moecli.moe.causality import Leak
from moecli.moe.linear import Linear
from moecli.moe.routing import RoutingRecord, Tokens
from moecli.moe.weight_sum import WeightSum


class FeedForwardConfig(KindConfig):
    """Base of the configs of feed-forward kinds."""

    @property
    def has_selection_bias(self) -> bool:
        """Whether there is a bias that the loss-free update can move."""
        return False

    @property
    def estimates_load(self) -> bool:
        """Whether the records of training have `Routing.smooth_load_TE`, which the load loss needs."""
        return False

    def with_default_widths(self, d_model: int) -> FeedForwardConfig:
        """The same config with every width filled in that the recipe leaves to its default."""
        raise TypeError(f"{type(self).__name__} has to say its default widths")

    def leaks(self) -> list[Leak]:
        """How a layer of this config lets a token see the future or other rows; empty where it treats each token by itself."""
        return []

    @property
    def learns_routing(self) -> bool:
        """Whether the records carry a gradient, so that a balance loss can teach something."""
        return False

    @property
    def mixes_by_weights(self) -> bool:
        """Whether there are weights that decide how tokens and experts find each other: of a router, a gate, soft mixing."""
        return False

    @property
    def goes_by_prefix(self) -> bool:
        """Whether in evaluation the ids before a token decide what happens to it, so that a cache has to keep them in mind."""
        return False

    @property
    def num_routed_experts(self) -> int:
        """Experts that tokens are sent to one by one, and which could live elsewhere; 0 where there are none of that kind."""
        return 0

    @property
    def weight_sum(self) -> WeightSum:
        """What the weights of a token's experts add up to, before drops."""
        return WeightSum(1.0)

    def problems_with_batches(self, sizes: dict[str, int], seq_len: int) -> list[FieldProblem]:
        """The rules between this config and what goes through the model at once that are broken.

        Args:
            sizes: numbers of sequences, by the recipe keys that decide them.
            seq_len: tokens per sequence.
        """
        return []


class FeedForward(nn.Module, ABC):
    """Base of the feed-forward kinds. Built from (config, d_model, activation), with the config's widths filled in."""

    config_class: ClassVar[type[FeedForwardConfig]]
    routes: ClassVar[bool] = True
    """Whether forward returns a record."""

    @property
    def num_active_params(self) -> int:
        """Parameters that one token uses."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def selection_bias_E(self) -> Tensor | None:
        """The bias that the loss-free update moves, float32; None without one."""
        return None

    @property
    def expert_outputs(self) -> tuple[Tensor, ...]:
        """The weights whose slice [e] makes expert e's output, so that zeros switch it off; empty without experts."""
        return ()

    def forward_flops_per_token(self, seq_len: int) -> float:
        """Multiplications and additions of all matrix products, before drops. Every active parameter is a factor once."""
        return 2 * self.num_active_params

    def init_weights(self, generator: Generator) -> None:
        """Sets the weights that don't begin as the rest of the model's do; called after those."""

    @abstractmethod
    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, RoutingRecord | None]: ...


class MLPConfig(FeedForwardConfig):
    """One feed-forward network: the dense baseline."""

    kind: Literal["mlp"] = "mlp"
    d_ff: PositiveInt | None = None
    """Hidden width. Default: 4 * d_model."""

    def with_default_widths(self, d_model: int) -> MLPConfig:
        return self.model_copy(update={"d_ff": self.d_ff or 4 * d_model})


class MLP(FeedForward):
    """out(activation(in(x))), no biases, no record."""

    config_class = MLPConfig
    routes: ClassVar[bool] = False

    def __init__(self, config: MLPConfig, d_model: int, activation: ActivationName) -> None:
        super().__init__()
        assert config.d_ff is not None
        self.activation = ACTIVATIONS[activation]
        self.in_proj = Linear(d_model, self.activation.in_width(config.d_ff), bias=False)
        self.out_proj = Linear(config.d_ff, d_model, bias=False)

    def forward(self, x_BSD: Tensor, tokens: Tokens | None = None) -> tuple[Tensor, None]:
        return self.out_proj(self.activation.function(self.in_proj(x_BSD))), None
