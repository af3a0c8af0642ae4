"""Which parameters a training leaves as they are.

Knows parameters by name. Must not know what moves the others, nor the selection bias, which no gradient moves.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from moecli.training.config import Freezable

ROUTER_PARTS = ("router", "gate_weight", "shared_gate", "mixer")
EXPERT_PARTS = ("experts", "shared")


def freeze(model: nn.Module, parts: Collection[Freezable]) -> None:
    """Sets which parameters get a gradient: those in none of `parts`. The optimizer takes no others, so that nothing decays either."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(_is_in(name, part) for part in parts))


def is_of_router(name: str) -> bool:
    """Whether a parameter decides how tokens and experts find each other: routers, gates and soft mixing."""
    return any(part in ROUTER_PARTS for part in name.split("."))


def _is_in(name: str, part: Freezable) -> bool:
    if part == "experts":
        return any(piece in EXPERT_PARTS for piece in name.split("."))
    return is_of_router(name) == (part == "router")
