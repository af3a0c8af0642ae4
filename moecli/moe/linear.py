"""Products with weights: of many rows in training, of one or a few in a step of generation, in which reading the weights is all the work.

Knows tensors. Must not know what the weights are for, nor which processor likes which library (onednn.py, grouped_product.py).
Shape letters beyond routing.py: N rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.moe import grouped_product, onednn

# Calling C for fewer takes longer than torch's own product, even where they come from memory and not from a cache.
LEAST_WEIGHTS_IN_C = 2**17


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x_I: Tensor) -> Tensor:
        return linear(x_I, self.weight, self.bias)


def linear(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`: x W^T + b, [..., I] -> [..., O], by the library that is faster."""
    needs_gradient = torch.is_grad_enabled()
    if torch.compiler.is_compiling() and not needs_gradient and x_I.numel() == weight_OI.shape[1]:
        dtype = compute_dtype(x_I)
        y_1O = row_product(x_I.reshape(1, -1).to(dtype), weight_OI.to(dtype))
        return (y_1O if bias_O is None else y_1O + bias_O.to(dtype)).view(*x_I.shape[:-1], -1)
    if not needs_gradient and _is_for_c(x_I, weight_OI, bias_O):
        y_NO = grouped_product.product(x_I.view(-1, x_I.shape[-1]), weight_OI.t()[None], [x_I.numel() // x_I.shape[-1]])
        return (y_NO if bias_O is None else y_NO + bias_O).view(*x_I.shape[:-1], -1)
    if not onednn.pays(x_I, weight_OI) or compute_dtype(x_I) != x_I.dtype:
        return F.linear(x_I, weight_OI, bias_O)
    if not needs_gradient:
        return onednn.product(x_I, weight_OI, bias_O)
    y_O: Tensor = onednn.OneDNNLinear.apply(x_I, weight_OI, bias_O)
    return y_O


def row_product(x_1I: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T of one row, [1, I] -> [1, O], written out: a compiler makes one pass over W of it, on all threads."""
    return (weight_OI * x_1I).sum(dim=-1)[None]


def _is_for_c(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> bool:
    """Whether few rows meet many weights, of a kind that C can multiply."""
    has_many_weights = weight_OI.numel() >= LEAST_WEIGHTS_IN_C
    has_few_rows = 0 < x_I.numel() <= grouped_product.FEW_ROWS * weight_OI.shape[1]
    if not (has_many_weights and has_few_rows and x_I.shape[-1] == weight_OI.shape[1] and x_I.is_contiguous()):
        return False
    tensors = (x_I, weight_OI) if bias_O is None else (x_I, weight_OI, bias_O)
    return grouped_product.takes(*tensors) and compute_dtype(x_I) == x_I.dtype


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of matrix products: what autocast says, where it is on."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
