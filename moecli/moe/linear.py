"""Products with weights, also where a single row meets them: a step of generation, in which reading the weights is all the work.

Knows tensors and threads. Must not know what the weights are for.
Shape letters beyond routing.py: I inputs, O outputs.

In float32 libraries leave the product with a single row to one thread, which reads memory more slowly than several do
(docs/performance.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.moe import onednn
from moecli.moe.onednn import OneDNNLinear

# From so many weights on a product with a single row is shared out over the threads.
LEAST_TO_SHARE = 2**18


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x_I: Tensor) -> Tensor:
        return linear(x_I, self.weight, self.bias)


def linear(x_I: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`F.linear`: x W^T + b, [..., I] -> [..., O]. Outside of autograd a single row goes through `row_product` where that pays."""
    if onednn.pays(x_I, weight_OI):
        y_O: Tensor = OneDNNLinear.apply(x_I, weight_OI, bias_O)
        return y_O
    if torch.is_grad_enabled() or x_I.numel() != weight_OI.shape[1]:
        return F.linear(x_I, weight_OI, bias_O)
    if not (torch.compiler.is_compiling() or _is_large(weight_OI)):
        return F.linear(x_I, weight_OI, bias_O)
    dtype = compute_dtype(x_I)
    y_1O = row_product(x_I.reshape(1, -1).to(dtype), weight_OI.to(dtype))
    return (y_1O if bias_O is None else y_1O + bias_O.to(dtype)).view(*x_I.shape[:-1], -1)


def row_product(x_1I: Tensor, weight_OI: Tensor) -> Tensor:
    """x W^T of one row, [1, I] -> [1, O], both in the dtype of the product."""
    if torch.compiler.is_compiling():  # written out, a compiler makes one pass over W of it, on all threads
        return (weight_OI * x_1I).sum(dim=-1)[None]
    parts = torch.get_num_threads()
    is_shared = parts > 1 and len(weight_OI) % parts == 0 and weight_OI.dtype == torch.float32 and weight_OI.device.type == "cpu"
    if not (is_shared and _is_large(weight_OI)):
        return F.linear(x_1I, weight_OI)
    parts_PIO = weight_OI.unflatten(0, (parts, -1)).transpose(1, 2)  # a batch, which libraries share out
    return torch.bmm(x_1I.expand(parts, 1, -1), parts_PIO).view(1, -1)


def _is_large(weight_OI: Tensor) -> bool:
    return weight_OI.numel() >= LEAST_TO_SHARE


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of matrix products: what autocast says, where it is on."""
    device_type = x.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else x.dtype
