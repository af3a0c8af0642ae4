"""Several experts as one: hidden units brought into one order, then a weighted mean.

The hidden units of a network have no order: the same function comes in H! arrangements, and two experts that were trained apart, or from
copies, need not have theirs in common. So before a mean is taken, each expert's units are matched to those of the first: the assignment
that maximises the sum over matched units of the products of their gate rows, up rows and output columns, found exactly
(scipy.optimize.linear_sum_assignment). It is the weight matching of Git Re-Basin (arXiv 2209.04836) for one layer; MC-SMoE
aligns experts so (arXiv 2310.01334).

Knows the weights of experts. Must not know which are to be one, nor why.
Shape letters: see moe/routing.py; M the experts that become one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from moecli.moe.experts import Experts


def average(experts: Experts, members: Sequence[int], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Their mean, as the weights of one: [F, D] and [D, H].

    Args:
        experts: of one layer.
        members: M of them; the order of the first one's units is the result's.
        shares: the weight of each, which sum to 1.
    """
    in_parts, out = [], []
    for member in members:
        in_PHD, out_DH = _parts(experts, member), experts.out_proj[member]
        units_H = matching_units(experts, members[0], member)
        in_parts.append(in_PHD[:, units_H])
        out.append(out_DH[:, units_H])
    in_PHD = sum_of(in_parts, shares)
    return in_PHD.flatten(0, 1), sum_of(out, shares)


def matching_units(experts: Experts, first: int, other: int) -> Tensor:
    """int64 [H]: for each hidden unit of the first expert the other's unit that is most like it, each once."""
    if first == other:
        return torch.arange(experts.out_proj.shape[2])
    likeness_HH = torch.einsum("phd,pkd->hk", _parts(experts, first), _parts(experts, other))
    likeness_HH = likeness_HH + experts.out_proj[first].T @ experts.out_proj[other]
    return torch.from_numpy(linear_sum_assignment(likeness_HH.detach().double().numpy(), maximize=True)[1])


def sum_of(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    """The weighted sum. One tensor with factor 1 comes out bit for bit."""
    total = tensors[0] * factors[0]
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        total = total + tensor * factor
    return total


def shares_of(load_E: Sequence[float], members: Sequence[int]) -> list[float]:
    """What each of them does of what they do together; the same for all where they do nothing."""
    total = sum(load_E[member] for member in members)
    return [load_E[member] / total if total else 1 / len(members) for member in members]


def _parts(experts: Experts, expert: int) -> Tensor:
    """Gate and up rows apart, or the one part there is: [P, H, D] with P of 2 or 1."""
    return experts.in_proj[expert].unflatten(0, (2 if experts.activation.is_gated else 1, -1))
