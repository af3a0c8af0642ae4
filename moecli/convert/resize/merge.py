"""Fewer experts, none of them lost: the most alike of a layer become one, pair by pair.

Likeness is what MC-SMoE groups by (arXiv 2310.01334): the cosine of two experts' router logits over a text, which is high
where the router would send the same tokens to either. A merged expert is the mean of its members weighted by how often each was chosen,
hidden units aligned first (average.py), as there; and so are its row of the router and its selection bias. What is lost is that the router
could tell the members apart (arXiv 2510.13999).

Departures. The logits of a token are taken less their mean over the experts, as a softmax does not see what is common to all. MC-SMoE
makes the most used experts of the whole model centres and gives each other expert to one of them, with another number of groups in each
layer; here the two most alike experts of a layer become one, again and again, until all layers have the number asked for.

Knows one layer before and after. Must not know where its statistics are from.
Shape letters: see moe/routing.py; C experts there are at a moment.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from moecli.convert.resize.average import average, shares_of, sum_of
from moecli.convert.resize.layers import copy_what_all_share, gate_tensors
from moecli.convert.resize.options import LayerChange, LayerStatistics
from moecli.convert.upcycle import MoE


def alike(statistics: LayerStatistics, num_left: int, num_groups: int = 1) -> list[list[int]]:
    """Which experts become one: so many lists, as many of each of the router's groups, in the order of their first members."""
    num_experts = len(statistics.load_E)
    size, merged = num_experts // num_groups, []
    for first in range(0, num_experts, size):
        clusters = [[expert] for expert in range(first, first + size)]
        while len(clusters) > num_left // num_groups:
            one, other = _most_alike(clusters, statistics)
            clusters[one] = sorted(clusters[one] + clusters.pop(other))
        merged += sorted(clusters)
    return merged


def _most_alike(clusters: Sequence[Sequence[int]], statistics: LayerStatistics) -> tuple[int, int]:
    """The pair with the largest cosine, the smaller place first."""
    load_E = statistics.load_E.tolist()
    shares_CE = torch.zeros(len(clusters), len(load_E), dtype=torch.float64)
    for place, members in enumerate(clusters):
        shares_CE[place, list(members)] = torch.tensor(shares_of(load_E, members), dtype=torch.float64)
    # The logits of a merged row are the same mean of its members' logits.
    products_CC = shares_CE @ statistics.logit_products_EE @ shares_CE.T
    length_C = products_CC.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
    cosine_CC = (products_CC / length_C[:, None] / length_C).tril(-1) + torch.full_like(products_CC, -torch.inf).triu()
    other, one = divmod(int(cosine_CC.argmax()), len(clusters))
    return one, other


def merge(source: MoE, target: MoE, change: LayerChange, load_E: Sequence[float]) -> None:
    """Fills the target: expert n is the mean of the experts in made_of[n]."""
    copy_what_all_share(source, target)
    theirs = gate_tensors(source)
    for place, members in enumerate(change.made_of):
        by_load = sorted(members, key=lambda expert: (-load_E[expert], expert))
        shares = shares_of(load_E, by_load)
        target.experts.in_proj[place], target.experts.out_proj[place] = average(source.experts, by_load, shares)
        for name, tensor in gate_tensors(target).items():
            tensor[place] = sum_of([theirs[name][member] for member in by_load], shares)
