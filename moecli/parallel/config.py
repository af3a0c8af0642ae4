"""How a training is spread over processes, as the recipe's `parallel` section holds it.

Knows its own fields. Must not know how many processes there are: the launcher says that (world.py).
"""

from __future__ import annotations

from typing import Literal

from moecli.config import Config, PositiveFloat, PositiveInt


class ParallelConfig(Config):
    """Every process takes an equal share of each batch. How many there are is for torchrun to say; one process ignores `data`."""

    data: Literal["replicate", "shard"] = "replicate"
    """What a process keeps of weights, gradients and moments: all of them, or its share, fetching the rest layer by layer (FSDP)."""
    expert: PositiveInt = 1
    """Processes that share out the experts of each layer, num_experts / expert to each; tokens travel to them (GShard). 1: none travel."""
    timeout_s: PositiveFloat = 600.0
    """Seconds to wait for another process, when all meet and in every exchange, before it counts as lost. One that reads text or writes a
    checkpoint may take longer: it says that it lives."""
