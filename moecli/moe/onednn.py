"""Matrix products by oneDNN, in place of MKL, to which torch leaves those of float32 on x86.

oneDNN takes AVX-512 wherever a processor has it, MKL on Intel's alone: on others oneDNN is up to twice as fast. And MKL leaves the product
with a single row to one thread, which reads memory more slowly than several do (docs/performance.md).

Knows tensors, libraries and processors. Must not know what is multiplied.
Shape letters: N rows, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def _is_faster_here() -> bool:
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    if not has_both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    capabilities: dict[str, str] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.11
    return "Intel" not in capabilities.get("cpu_name", "Intel")


IS_FASTER_HERE = _is_faster_here()
# From so many multiplications on: of a product, of one with a single row, and of a weight gradient, for which a matrix is copied.
LEAST_MULTIPLICATIONS = 2**21
LEAST_WITH_ONE_ROW = 2**18
LEAST_FOR_WEIGHT_GRADIENT = 2**23


def pays(x_NI: Tensor, weight_OI: Tensor) -> bool:
    """Whether the product of these, in their dtype, is for oneDNN."""
    if not IS_FASTER_HERE or x_NI.device.type != "cpu" or not x_NI.dtype == weight_OI.dtype == torch.float32:
        return False
    least = LEAST_WITH_ONE_ROW if x_NI.numel() == weight_OI.shape[1] else LEAST_MULTIPLICATIONS
    return x_NI.numel() * len(weight_OI) >= least


def product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, [..., I] -> [..., O], outside of autograd."""
    if torch.compiler.is_compiling():
        return _product_for_compilers(x_NI, weight_OI, bias_O)
    y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, weight_OI, bias_O, "none", [], "")
    return y_NO


@torch.library.custom_op("moecli::onednn_product", mutates_args=())
def _product_for_compilers(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """`product`, into which torch's compiler does not look: it knows the operation for weights that stay as they are alone."""
    return product(x_NI, weight_OI, bias_O)


@_product_for_compilers.register_fake
def _shape_of_product(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    return x_NI.new_empty(*x_NI.shape[:-1], len(weight_OI))


def weight_gradient(doutput_NO: Tensor, input_NI: Tensor) -> Tensor:
    """doutput^T input, [O, I], by the library that is faster."""
    num_outputs, num_inputs = doutput_NO.shape[1], input_NI.shape[1]
    if input_NI.numel() * num_outputs < LEAST_FOR_WEIGHT_GRADIENT:
        return doutput_NO.t() @ input_NI
    # What takes the place of the rows has to lie row by row: the smaller matrix is copied.
    if num_outputs <= num_inputs:
        return product(doutput_NO.t().contiguous(), input_NI.t())
    return product(input_NI.t().contiguous(), doutput_NO.t()).t()


class OneDNNLinear(Function):
    """(x [..., I], weight_OI, bias_O or None) -> x W^T + b, [..., O]: `F.linear`."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return product(x_NI, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, doutput_NO: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows_NO = doutput_NO.reshape(-1, len(weight_OI))
        dx_NI = product(doutput_NO, weight_OI.t()) if wants_x else None
        dweight_OI = weight_gradient(rows_NO, x_NI.reshape(-1, x_NI.shape[-1])) if wants_weight else None
        return dx_NI, dweight_OI, rows_NO.sum(dim=0) if wants_bias else None
