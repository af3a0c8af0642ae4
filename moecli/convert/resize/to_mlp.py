"""An mlp where the experts were: a start for distillation, not the same function.

average      The mean of all experts, hidden units aligned to those of the most used one (average.py).
load         The same, weighted by how often each was chosen.
heaviest     The most used expert.
concatenate  The top_k most used experts side by side: as wide as what a token used.

One network stands for all that a token got, so its outputs are multiplied by what a token's combine weights summed to, mean over a text.
Side by side, each expert's are multiplied by its part of that: in proportion to the mean weight that it got. So experts that are all the
same make the same function each way, where the sum is the same for every token. Shared experts stand beside, exactly; of a gate before
them the mean is what stays.

Knows one layer before and after. Must not know how the mlp is trained.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moecli.convert.resize.average import average, shares_of
from moecli.convert.resize.options import LayerChange, LayerStatistics, MergeBy
from moecli.convert.upcycle import MoE
from moecli.moe.layers import MLP, SparseMoE


def parts_of_mlp(layer: int, statistics: LayerStatistics, merge_by: MergeBy, num_beside: int) -> LayerChange:
    """Which experts each part of the mlp's width is made of, the most used first, and what its outputs are multiplied by."""
    load_E, weight_E = statistics.load_E.tolist(), statistics.weight_E.tolist()
    ranked = sorted(range(len(load_E)), key=lambda expert: (-load_E[expert], expert))
    if merge_by == "concatenate":
        beside = ranked[:num_beside]
        factors = [sum(weight_E) * share for share in shares_of(weight_E, beside)]
        return LayerChange(layer, [[expert] for expert in beside], load_E, factors)
    return LayerChange(layer, [ranked[:1] if merge_by == "heaviest" else ranked], load_E, [sum(weight_E)])


def fill_mlp(source: MoE, target: MLP, change: LayerChange, statistics: LayerStatistics, merge_by: MergeBy) -> None:
    """Fills the target with the parts, then the shared experts."""
    load_E = statistics.load_E.tolist()
    networks = []
    for members, factor in zip(change.made_of, change.output_factors, strict=True):
        shares = [1 / len(members)] * len(members) if merge_by == "average" else shares_of(load_E, members)
        in_FD, out_DH = average(source.experts, members, shares)
        networks.append((in_FD, out_DH * factor))
    if isinstance(source, SparseMoE) and source.shared is not None:
        networks.append((source.shared.in_proj.weight, source.shared.out_proj.weight * statistics.shared_gate))
    in_FD, out_DH = side_by_side(networks, is_gated=target.activation.is_gated)
    target.in_proj.weight.copy_(in_FD)
    target.out_proj.weight.copy_(out_DH)


def side_by_side(networks: Sequence[tuple[Tensor, Tensor]], *, is_gated: bool) -> tuple[Tensor, Tensor]:
    """One network that computes their sum: all hidden units in a row."""
    parts = [in_FD.unflatten(0, (2 if is_gated else 1, -1)) for in_FD, _ in networks]
    return torch.cat(parts, dim=1).flatten(0, 1), torch.cat([out_DH for _, out_DH in networks], dim=1)
