"""Products of the rows of several experts with the weights of each, all experts in one call, on x86 processors with AVX-512.

They are written in C (grouped_product.c), which is compiled when moecli is installed, if there is gcc (hatch_build.py). torch has
no such product for CPUs: taken one by one, experts with few rows cost more in calls than in multiplications (docs/performance.md).
Both are operations of torch, so that its compiler, its profiler and its counter of FLOPs know them.

Knows tensors and the compiled library. Must not know what is multiplied, nor what happens where the library is missing.
Shape letters: see routing.py; N rows, I inputs, O outputs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula


def _load(path: Path) -> ctypes.CDLL | None:
    """None where it was not compiled, or for another kind of machine. Its threads are torch's, whose library for them has to be loaded."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        library = ctypes.CDLL(str(path))
    except OSError:
        return None
    tensor, number, small_number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.grouped_product.argtypes = [tensor] * 4 + [number] * 3 + [small_number] * 2
    library.grouped_weight_gradient.argtypes = [tensor] * 4 + [number] * 3 + [small_number]
    library.grouped_product.restype = library.grouped_weight_gradient.restype = None
    return library


# Of an expert, at most, for its weights to be read as they lie, without copies: FEW_ROWS of grouped_product.c.
FEW_ROWS = 8
LIBRARY = _load(Path(__file__).with_name("libgrouped_product.so"))


def takes(*tensors: Tensor) -> bool:
    """Whether the products of these can be taken here: of float32 on a CPU, contiguous, or stacked weights that lie transposed."""
    return LIBRARY is not None and all(map(_is_readable, tensors))


def product(x_NI: Tensor, weights_EIO: Tensor, lengths: Sequence[int]) -> Tensor:
    """x W of each expert, [N, O], outside of autograd.

    Args:
        x_NI: the rows of expert 0 first, then those of expert 1, and so on.
        weights_EIO: contiguous, or transposed from a contiguous [E, O, I].
        lengths: rows of each expert, N together.
    """
    assert not (torch.is_grad_enabled() and (x_NI.requires_grad or weights_EIO.requires_grad)), "no gradient would come back"
    y_NO: Tensor = torch.ops.moecli.grouped_product.default(x_NI, weights_EIO, lengths)
    return y_NO


def write_weight_gradients(doutput_NO: Tensor, input_NI: Tensor, lengths: Sequence[int], gradients_EOI: Tensor) -> None:
    """doutput^T input of each expert, into a contiguous [E, O, I]: zeros for an expert without rows."""
    torch.ops.moecli.grouped_weight_gradients.default(doutput_NO, input_NI, lengths, gradients_EOI)


OPERATIONS = torch.library.Library("moecli", "FRAGMENT")
OPERATIONS.define("grouped_product(Tensor x, Tensor weights, SymInt[] lengths) -> Tensor")
OPERATIONS.define("grouped_weight_gradients(Tensor doutput, Tensor input, SymInt[] lengths, Tensor(a!) gradients) -> ()")


@torch.library.impl("moecli::grouped_product", "CPU", lib=OPERATIONS)
def _product(x_NI: Tensor, weights_EIO: Tensor, lengths: list[int]) -> Tensor:
    num_experts, num_inputs, num_outputs = weights_EIO.shape
    y_NO = x_NI.new_empty(len(x_NI), num_outputs)
    fits = x_NI.is_contiguous() and x_NI.shape == (sum(lengths), num_inputs)
    _check(fits and _are_lengths(lengths, num_experts), x_NI, weights_EIO)
    assert LIBRARY is not None
    LIBRARY.grouped_product(
        *(tensor.data_ptr() for tensor in (x_NI, weights_EIO, y_NO)),
        (ctypes.c_int64 * num_experts)(*lengths),
        num_experts, num_inputs, num_outputs, not weights_EIO.is_contiguous(), torch.get_num_threads(),
    )  # fmt: skip
    return y_NO


@torch.library.register_fake("moecli::grouped_product", lib=OPERATIONS)
def _empty_product(x_NI: Tensor, weights_EIO: Tensor, lengths: list[int]) -> Tensor:
    return x_NI.new_empty(x_NI.shape[0], weights_EIO.shape[2])  # len() would be a number, and each a program of its own


@register_flop_formula(torch.ops.moecli.grouped_product)
def _product_flops(shape_NI: torch.Size, shape_EIO: torch.Size, *args: object, **kwargs: object) -> int:
    return 2 * shape_NI[0] * shape_EIO[1] * shape_EIO[2]


@torch.library.impl("moecli::grouped_weight_gradients", "CPU", lib=OPERATIONS)
def _write_weight_gradients(doutput_NO: Tensor, input_NI: Tensor, lengths: list[int], gradients_EOI: Tensor) -> None:
    num_experts, num_outputs, num_inputs = gradients_EOI.shape
    shapes_fit = doutput_NO.shape == (sum(lengths), num_outputs) and input_NI.shape == (sum(lengths), num_inputs)
    are_contiguous = all(tensor.is_contiguous() for tensor in (doutput_NO, input_NI, gradients_EOI))
    _check(shapes_fit and are_contiguous and _are_lengths(lengths, num_experts), doutput_NO, input_NI, gradients_EOI)
    assert LIBRARY is not None
    LIBRARY.grouped_weight_gradient(
        *(tensor.data_ptr() for tensor in (doutput_NO, input_NI, gradients_EOI)),
        (ctypes.c_int64 * num_experts)(*lengths),
        num_experts, num_outputs, num_inputs, torch.get_num_threads(),
    )  # fmt: skip


@register_flop_formula(torch.ops.moecli.grouped_weight_gradients)
def _weight_gradient_flops(shape_NO: torch.Size, shape_NI: torch.Size, *args: object, **kwargs: object) -> int:
    return 2 * shape_NO[0] * shape_NO[1] * shape_NI[1]


def _is_readable(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_cpu and (tensor.is_contiguous() or _lies_transposed(tensor))


def _lies_transposed(tensor: Tensor) -> bool:
    return tensor.dim() == 3 and tensor.transpose(1, 2).is_contiguous()


def _are_lengths(lengths: list[int], num_experts: int) -> bool:
    return len(lengths) == num_experts and min(lengths, default=0) >= 0


def _check(fits: bool, *tensors: Tensor) -> None:
    """No assert, which `python -O` leaves out: C would read what is not there."""
    if not fits or not takes(*tensors):
        raise ValueError(f"no rows, weights and lengths of experts that fit each other: {[tuple(tensor.shape) for tensor in tensors]}")
