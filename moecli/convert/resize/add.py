"""More experts: copies of the most used ones, with noise so that they part, and rows of the router like those of their models.

Knows one layer before and after. Must not know how training sets copies apart.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from moecli.convert.resize.layers import expert_tensors, gate_tensors, take_experts
from moecli.convert.resize.options import LayerChange
from moecli.convert.upcycle import MoE


def with_copies(load_E: Sequence[float], num_experts: int, num_groups: int = 1) -> list[int]:
    """Of which expert each of so many is: the old ones in order, then copies, the most used first and again from the start where they run
    out; group by group, as many in each."""
    size, num_new = len(load_E) // num_groups, (num_experts - len(load_E)) // num_groups
    sources: list[int] = []
    for first in range(0, len(load_E), size):
        ranked = sorted(range(first, first + size), key=lambda expert: (-load_E[expert], expert))
        sources += [*range(first, first + size), *(ranked[number % size] for number in range(num_new))]
    return sources


def add(source: MoE, target: MoE, change: LayerChange, noise_std: float, generator: Generator) -> None:
    """Fills the target with the old experts, bit for bit, and the copies with their noise; a selection bias is copied as it is."""
    sources = [expert for [expert] in change.made_of]
    take_experts(source, target, sources)
    theirs = gate_tensors(source) | expert_tensors(source)
    is_new_N = torch.tensor([expert in sources[:place] for place, expert in enumerate(sources)])
    for name, tensor in (gate_tensors(target) | expert_tensors(target)).items():
        if tensor.ndim > 1:  # a bias has no spread to go by
            tensor[is_new_N] += _noise(tensor[is_new_N], theirs[name], noise_std, generator)


def _noise(like: Tensor, matrix: Tensor, noise_std: float, generator: Generator) -> Tensor:
    return torch.empty_like(like).normal_(generator=generator) * matrix.std() * noise_std
