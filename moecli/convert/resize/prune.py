"""Fewer experts: some stay as they are, with their rows of the router, the others go.

Where every token scores the experts by itself, what is left computes what the whole computed if the logits of those that went were minus
infinity. The last word on who stays has the text: pruning by use and by the loss that an expert's absence costs are compared in
docs/resizing.md. (Task-specific pruning by load: arXiv 2206.00277. By the loss of the layer's output: arXiv 2402.14800.)

Knows scores and groups. Must not know what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator

from moecli.convert.resize.layers import take_experts
from moecli.convert.resize.options import LayerChange
from moecli.convert.upcycle import MoE


def prune(source: MoE, target: MoE, change: LayerChange) -> None:
    """Fills the target with the experts that stay."""
    take_experts(source, target, [expert for [expert] in change.made_of])


def highest(scores: Sequence[float], num_kept: int, num_groups: int = 1) -> list[int]:
    """The experts with the highest scores, in order, as many of each of the router's groups; of equals the first."""
    size, num_of_group = len(scores) // num_groups, num_kept // num_groups
    kept: list[int] = []
    for first in range(0, len(scores), size):
        ranked = sorted(range(first, first + size), key=lambda expert: (-scores[expert], expert))
        kept += sorted(ranked[:num_of_group])
    return kept


def drawn(num_experts: int, num_kept: int, generator: Generator, num_groups: int = 1) -> list[int]:
    """As many experts, any of them."""
    return highest(torch.rand(num_experts, generator=generator, dtype=torch.float64).tolist(), num_kept, num_groups)
