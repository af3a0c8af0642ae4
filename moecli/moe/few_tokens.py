"""The experts on few tokens outside of autograd, as in generation: reading weights is what costs, and calling operations.

Knows a choice of experts, and the mathematics of one expert. Must not know queues, nor when this way pays (experts.py).
Shape letters: see routing.py.

    in = x I_e^T      h = w * activation(in)      y = sum over the chosen experts of h O_e^T
"""

from __future__ import annotations

import torch
from torch import Tensor

from moecli.moe import grouped_product
from moecli.moe.activations import Activation
from moecli.moe.linear import linear

# With more experts than this to a chosen one, telling C of all that were not chosen takes longer than taking the chosen ones one by one.
MOST_EXPERTS_PER_ROW = 64


def run_one_token(
    x_1D: Tensor,
    expert_ids_K: Tensor,
    weights_K: Tensor,
    in_proj_EFD: Tensor,
    out_proj_EDH: Tensor,
    activation: Activation,
    dtype: torch.dtype,
) -> Tensor:
    """[1, D] -> [1, D] in float32, products in `dtype`. No other expert's weights are read, and none are copied."""
    experts_K, order_K = expert_ids_K.sort()
    experts = experts_K.tolist()
    in_KF = _products(x_1D.to(dtype).repeat(len(experts), 1), in_proj_EFD, experts)
    hidden_KH = activation.function(in_KF).mul_(weights_K[order_K, None])
    return _products(hidden_KH, out_proj_EDH, experts).sum(dim=0, keepdim=True, dtype=weights_K.dtype)


def _products(x_KI: Tensor, weights_EOI: Tensor, experts: list[int]) -> Tensor:
    """x W^T of each row with the weights of its expert, [K, I] -> [K, O]; experts ascend."""
    if len(weights_EOI) <= MOST_EXPERTS_PER_ROW * len(experts) and grouped_product.takes(x_KI, weights_EOI):
        lengths = [0] * len(weights_EOI)
        for expert in experts:
            lengths[expert] += 1
        return grouped_product.product(x_KI, weights_EOI.transpose(1, 2), lengths)
    rows_and_experts = zip(x_KI.split(1), experts, strict=True)
    return torch.cat([linear(x_1I, weights_EOI[expert].to(x_1I.dtype)) for x_1I, expert in rows_and_experts])


def run_gathered(
    x_AD: Tensor,
    expert_ids_A: Tensor,
    weights_A: Tensor,
    in_proj_EFD: Tensor,
    out_proj_EDH: Tensor,
    activation: Activation,
    dtype: torch.dtype,
) -> Tensor:
    """The weighted output of each assignment, [A, D] -> [A, D] in float32, for a compiler: written out, it makes one pass over the chosen
    weights of each product, without the copies that this makes where it runs as it stands. Nothing waits for the ids."""
    in_AF = (in_proj_EFD[expert_ids_A].to(dtype) * x_AD.to(dtype)[:, None]).sum(dim=-1)
    hidden_AH = activation.function(in_AF) * weights_A[:, None].to(dtype)
    return (out_proj_EDH[expert_ids_A].to(dtype) * hidden_AH[:, None]).sum(dim=-1).to(weights_A.dtype)
