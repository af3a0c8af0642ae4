"""The activations of feed-forward networks, and whether each needs a gate beside the up projection.

Knows functions of one tensor. Must not know where the tensor comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ActivationName = Literal["swiglu", "gelu", "relu", "relu2"]
# Smaller tensors are done before a kernel of our own is called.
LEAST_FOR_KERNELS = 2**20

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Activation:
    """A map from the input projection's output [..., F] to the hidden state [..., H]."""

    function: Function
    is_gated: bool
    """True: F = 2H, the first half is the gate, the second the up projection. False: F = H."""
    with_gradient: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(in [..., F], gradient of the hidden state [..., H]) -> (hidden state [..., H], gradient of in [..., F]), outside of autograd."""

    def in_width(self, hidden_width: int) -> int:
        """F for a given H."""
        return 2 * hidden_width if self.is_gated else hidden_width


def swiglu(in_F: Tensor) -> Tensor:
    """SiLU(gate) * up (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    if kernels_pay(in_F):
        in_NF = in_F.flatten(0, -2)
        return weighed_swiglu(in_NF, torch.ones(len(in_NF), device=in_F.device)).unflatten(0, in_F.shape[:-1])
    gate_H, up_H = in_F.chunk(2, dim=-1)
    return F.silu(gate_H) * up_H


def weighed_swiglu(in_NF: Tensor, weights_N: Tensor) -> Tensor:
    """weights_N * swiglu(in_NF), in one pass over memory; where `kernels_pay`."""
    from moecli.moe.cuda_kernels import WeighedSwiGLU

    return WeighedSwiGLU.apply(in_NF, weights_N)


def kernels_pay(x: Tensor) -> bool:
    """Whether cuda_kernels.py works here and is worth a call. Under torch.compile it isn't: the compiler writes such kernels itself."""
    return x.is_cuda and x.numel() >= LEAST_FOR_KERNELS and not torch.compiler.is_compiling() and _kernels_work(x.device)


@cache
def _kernels_work(device: torch.device) -> bool:
    """Triton comes with torch for CUDA on some systems, and needs a C compiler: whether all is there shows in a trial."""
    try:
        from moecli.moe.cuda_kernels import sum_rows

        ones_22 = torch.ones(2, 2, device=device)
        return bool(torch.equal(sum_rows(ones_22, torch.zeros(1, 2, dtype=torch.int64, device=device)), 2 * ones_22[:1]))
    except Exception:  # of many classes, by what is missing
        return False


def swiglu_with_gradient(in_F: Tensor, dhidden_H: Tensor) -> tuple[Tensor, Tensor]:
    """d gate = SiLU'(gate) * up * d hidden, d up = SiLU(gate) * d hidden: written once, where autograd would put two halves together."""
    gate_H, up_H = in_F.chunk(2, dim=-1)
    silu_H = F.silu(gate_H)
    din_F = torch.empty_like(in_F)
    dgate_H, dup_H = din_F.chunk(2, dim=-1)
    torch.ops.aten.silu_backward.grad_input(dhidden_H * up_H, gate_H, grad_input=dgate_H)
    torch.mul(dhidden_H, silu_H, out=dup_H)
    return silu_H.mul_(up_H), din_F


def squared_relu(in_F: Tensor) -> Tensor:
    """max(0, x)^2 (Primer, arXiv 2109.08668)."""
    return F.relu(in_F).square()


def by_autograd(function: Function) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """`Activation.with_gradient` of a function that autograd differentiates as well as a hand would."""

    def with_gradient(in_F: Tensor, dhidden_H: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf_F = in_F.detach().requires_grad_()
            hidden_H = function(leaf_F)
        [din_F] = torch.autograd.grad(hidden_H, leaf_F, dhidden_H)
        return hidden_H.detach(), din_F

    return with_gradient


ACTIVATIONS: dict[ActivationName, Activation] = {
    "swiglu": Activation(swiglu, is_gated=True, with_gradient=swiglu_with_gradient),
    "gelu": Activation(F.gelu, is_gated=False, with_gradient=by_autograd(F.gelu)),
    "relu": Activation(F.relu, is_gated=False, with_gradient=by_autograd(F.relu)),
    "relu2": Activation(squared_relu, is_gated=False, with_gradient=by_autograd(squared_relu)),
}
