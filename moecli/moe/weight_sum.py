"""How much of an expert's output reaches the residual stream: what a token's combine weights add up to.

Knows two facts about a router. Must not know any router by name: each config says its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeightSum:
    """What the combine weights of one token add up to in evaluation, before drops."""

    value: float
    """Where it is not constant: at logits of 0, where most routers begin."""
    is_constant: bool = True
    """Whether it is the same for every token, whatever the router's weights."""
