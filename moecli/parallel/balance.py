"""The sums that balance losses are taken of, over all processes.

Knows sums per expert and the world. Must not know the losses.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from moecli.moe.balance_sums import BalanceSums
from moecli.parallel.world import World


def sums_over_ranks(layers: Sequence[BalanceSums], world: World) -> list[BalanceSums]:
    """Each layer's sums over the tokens of all processes, in one message for all layers, without gradient."""
    if not layers:
        return []
    flat = iter(world.add_up([tensor for layer in layers for tensor in _tensors(layer)]))
    return [BalanceSums(next(flat), next(flat), next(flat), None if layer.smooth_load_GE is None else next(flat)) for layer in layers]


def _tensors(layer: BalanceSums) -> list[Tensor]:
    optional = [] if layer.smooth_load_GE is None else [layer.smooth_load_GE]
    return [layer.count_GE, layer.prob_GE, layer.weight_GE, *optional]
