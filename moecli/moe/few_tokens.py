"""The experts on few tokens outside of autograd, as in generation: reading weights is what costs, and calling operations.

Knows a choice of experts, and the mathematics of one expert. Must not know queues, nor when this way pays (experts.py).
Shape letters: see routing.py.

    in = x I_e^T      h = w * activation(in)      y = sum over the chosen experts of h O_e^T
"""

from __future__ import annotations

import torch
from torch import Tensor

from moecli.moe.activations import Activation
from moecli.moe.linear import linear


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
    experts, x_1D = expert_ids_K.tolist(), x_1D.to(dtype)
    in_KF = torch.cat([linear(x_1D, in_proj_EFD[expert].to(dtype)) for expert in experts])
    hidden_KH = activation.function(in_KF).mul_(weights_K[:, None])
    hidden_and_experts = zip(hidden_KH.split(1), experts, strict=True)
    out_KD = torch.cat([linear(hidden_1H, out_proj_EDH[expert].to(dtype)) for hidden_1H, expert in hidden_and_experts])
    return out_KD.sum(dim=0, keepdim=True, dtype=weights_K.dtype)


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
