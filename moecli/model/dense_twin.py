"""The dense model that costs what an MoE costs: everything as it is there, and one feed-forward network where the experts were.

Knows model_cost. Must not know training: how long a twin takes can't be counted beforehand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from moecli.model.accounting import ModelCost, model_cost
from moecli.model.config import GPTConfig
from moecli.moe.layers import MLPConfig

CostMatch = Literal["active", "flops", "total"]

QUANTITIES: dict[CostMatch, Callable[[ModelCost], int]] = {
    "active": lambda cost: cost.params_active,
    "flops": lambda cost: cost.train_flops_per_token,
    "total": lambda cost: cost.params_total,
}

# Matrix products are fastest where widths are multiples of it.
ROUND_WIDTH = 8
# How far a round width may be from the exact one, as a share of that.
ROUND_TOLERANCE = Fraction(1, 100)


@dataclass(frozen=True, slots=True)
class Twin:
    """A dense model and how well it matches."""

    config: GPTConfig
    d_ff: int
    """Hidden width of the feed-forward networks that stand where the MoE layers were."""
    target: int
    """What the MoE costs, in what is matched: parameters, or training FLOPs per token."""
    got: int
    """What the twin costs."""

    @property
    def mismatch(self) -> float:
        """What rounding the width has left: got / target - 1."""
        return self.got / self.target - 1


def dense_twin(config: GPTConfig, vocab_size: int, seq_len: int, match: CostMatch, forward_passes_ahead: int = 0) -> Twin:
    """The same model with `mlp` feed-forward networks of the width that makes it cost the same. Allocates nothing.

    Layers that are dense already stay as they are. The width is a multiple of 8 where one lies within 1 % of the exact width, else the
    nearest whole number, at least 1.

    Args:
        config: of an MoE, causal or not.
        vocab_size: ids of the model.
        seq_len: tokens per sequence; attention's share of the FLOPs depends on it, and so may that of soft routing.
        match: what is to be the same: "active" and "total" parameters, or "flops", those of training per token.
        forward_passes_ahead: of the MoE's training, see ModelCost; the twin's has none.
    """
    quantity = QUANTITIES[match]

    def cost(d_ff: int) -> int:
        return quantity(model_cost(_with_width(config, d_ff), vocab_size, seq_len))

    target = quantity(model_cost(config, vocab_size, seq_len, forward_passes_ahead))
    # The cost of a dense model is a straight line over its width.
    narrow, wide = cost(1), cost(2)
    exact = 1 + Fraction(target - narrow, wide - narrow)
    d_ff = ROUND_WIDTH * round(exact / ROUND_WIDTH)
    if abs(d_ff - exact) > ROUND_TOLERANCE * exact:
        d_ff = max(1, round(exact))
    return Twin(config=_with_width(config, d_ff), d_ff=d_ff, target=target, got=cost(d_ff))


def _with_width(config: GPTConfig, d_ff: int) -> GPTConfig:
    return config.model_copy(update={"ffn": MLPConfig(d_ff=d_ff)})
