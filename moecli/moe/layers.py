"""The feed-forward kinds by name: forward(x_BSD, tokens) -> (y_BSD, RoutingRecord | None).

A new kind is a file here and a line in FEED_FORWARDS; recipe, accounting and tests follow from the table.
"""

from __future__ import annotations

from moecli.moe.dense import DenseMoE, DenseMoEConfig
from moecli.moe.feed_forward import MLP, FeedForward, FeedForwardConfig, MLPConfig
from moecli.moe.soft import SoftMoE, SoftMoEConfig
from moecli.moe.sparse import SparseMoE, SparseMoEConfig

FEED_FORWARDS: dict[str, type[FeedForward]] = {
    "mlp": MLP,
    "dense": DenseMoE,
    "sparse": SparseMoE,
    "soft": SoftMoE,
}

__all__ = [
    "FEED_FORWARDS",
    "MLP",
    "DenseMoE",
    "DenseMoEConfig",
    "FeedForward",
    "FeedForwardConfig",
    "MLPConfig",
    "SoftMoE",
    "SoftMoEConfig",
    "SparseMoE",
    "SparseMoEConfig",
]
