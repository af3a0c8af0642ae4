"""RMSNorm with a backward pass written by hand: torch has none for CPUs, where autograd takes ten operations over the activations.

Knows one tensor and its weight. Must not know where they stand in a model.

For a row x of D features (arXiv 1910.07467, eq. 4, with eps as torch has it) and the gradient g of y:

    r = 1 / sqrt(mean(x^2) + eps)       n = r x       y = w n
    dw = sum over rows of g n           dx = r (w g - n mean(w g n))
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` over the last axis, [..., D] -> [..., D]."""

    def forward(self, x_D: Tensor) -> Tensor:
        # A compiler makes one operation of ten by itself. Squares of half the precision would have to be taken in a larger one.
        by_hand = torch.is_grad_enabled() and not torch.compiler.is_compiling() and x_D.device.type == "cpu"
        if not by_hand or self.eps is None or self.weight is None or not x_D.dtype == self.weight.dtype == torch.float32:
            return super().forward(x_D)
        y_D: Tensor = RMSNormByHand.apply(x_D, self.weight, self.eps)
        return y_D


class RMSNormByHand(Function):
    """(x [..., D], weight_D, eps) -> y [..., D]."""

    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        square_1 = torch.linalg.vector_norm(x_D, dim=-1, keepdim=True).square_()
        rate_1 = square_1.div_(x_D.shape[-1]).add_(eps).rsqrt_()
        normed_D = x_D * rate_1
        ctx.save_for_backward(normed_D, weight_D, rate_1)
        return normed_D * weight_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_D: Tensor) -> tuple[Tensor | None, ...]:
        normed_D, weight_D, rate_1 = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_normed_D = grad_D * normed_D
        dweight_D = grad_normed_D.reshape(-1, len(weight_D)).sum(dim=0) if wants_weight else None
        if not wants_x:
            return None, dweight_D, None
        mean_1 = (grad_normed_D @ weight_D)[..., None].div_(len(weight_D))
        dx_D = torch.mul(grad_D, weight_D, out=grad_normed_D)  # whose numbers are read no more
        return dx_D.addcmul_(normed_D, mean_1, value=-1).mul_(rate_1), dweight_D, None
