"""Two things that torch does on a GPU in several passes over memory, in one each: SwiGLU with a weight, and the sum of a token's rows.

Written in Triton, which comes with torch for CUDA. Imported where there is such a GPU alone (activations.py): without it, and under
torch.compile, plain torch does the same. Knows tensors. Must not know experts or queues. Shape letters: see routing.py; N rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

LARGEST_BLOCK = 1024


class WeighedSwiGLU(Function):
    """(in_NF, weights_N) -> weights_N * SiLU(gate) * up [N, H], with gate and up the halves of F. In float32 between load and store."""

    @staticmethod
    def forward(ctx: Any, in_NF: Tensor, weights_N: Tensor) -> Tensor:
        in_NF = in_NF.contiguous()
        num_rows, width = in_NF.shape[0], in_NF.shape[1] // 2
        hidden_NH = in_NF.new_empty(num_rows, width)
        if num_rows:
            block = _block(width)
            _swiglu[(num_rows, triton.cdiv(width, block))](in_NF, weights_N, hidden_NH, width, block)
        ctx.save_for_backward(in_NF, weights_N)
        return hidden_NH

    @staticmethod
    def backward(ctx: Any, dhidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        in_NF, weights_N = ctx.saved_tensors
        din_NF, dweights_N = torch.empty_like(in_NF), torch.empty_like(weights_N)
        num_rows, width = in_NF.shape[0], in_NF.shape[1] // 2
        if num_rows:
            _swiglu_backward[(num_rows,)](in_NF, weights_N, dhidden_NH.contiguous(), din_NF, dweights_N, width, _block(width))
        return din_NF, dweights_N


def sum_rows(rows_AD: Tensor, places_TK: Tensor) -> Tensor:
    """[A, D] -> [T, D]: for each token the sum of the rows at its K places, in float32 between load and store."""
    rows_AD = rows_AD.contiguous()
    (num_tokens, num_choices), width = places_TK.shape, rows_AD.shape[1]
    sums_TD = rows_AD.new_empty(num_tokens, width)
    if num_tokens:
        block = _block(width)
        _sum_rows[(num_tokens, triton.cdiv(width, block))](rows_AD, places_TK.contiguous(), sums_TD, width, num_choices, block)
    return sums_TD


def _block(width: int) -> int:
    return min(LARGEST_BLOCK, triton.next_power_of_2(width))


@triton.jit
def _swiglu(in_ptr, weights_ptr, hidden_ptr, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there = columns < width
    gate = tl.load(in_ptr + row * 2 * width + columns, mask=is_there, other=0.0).to(tl.float32)
    up = tl.load(in_ptr + (row * 2 + 1) * width + columns, mask=is_there, other=0.0).to(tl.float32)
    hidden = gate * tl.sigmoid(gate) * up * tl.load(weights_ptr + row).to(tl.float32)
    tl.store(hidden_ptr + row * width + columns, hidden.to(hidden_ptr.dtype.element_ty), mask=is_there)


@triton.jit
def _swiglu_backward(in_ptr, weights_ptr, dhidden_ptr, din_ptr, dweights_ptr, width: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """With s = sigmoid(gate) and SiLU = gate s: d gate = w dh up s (1 + gate (1 - s)), d up = w dh SiLU, d w = sum(dh SiLU up)."""
    row = tl.program_id(0).to(tl.int64)
    weight = tl.load(weights_ptr + row).to(tl.float32)
    products = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        is_there = columns < width
        gate = tl.load(in_ptr + row * 2 * width + columns, mask=is_there, other=0.0).to(tl.float32)
        up = tl.load(in_ptr + (row * 2 + 1) * width + columns, mask=is_there, other=0.0).to(tl.float32)
        dhidden = tl.load(dhidden_ptr + row * width + columns, mask=is_there, other=0.0).to(tl.float32)
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        products += dhidden * silu * up
        dgate = weight * dhidden * up * sigmoid * (1 + gate * (1 - sigmoid))
        dup = weight * dhidden * silu
        tl.store(din_ptr + row * 2 * width + columns, dgate.to(din_ptr.dtype.element_ty), mask=is_there)
        tl.store(din_ptr + (row * 2 + 1) * width + columns, dup.to(din_ptr.dtype.element_ty), mask=is_there)
    tl.store(dweights_ptr + row, tl.sum(products).to(dweights_ptr.dtype.element_ty))


@triton.jit
def _sum_rows(rows_ptr, places_ptr, sums_ptr, width, num_choices: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_there = columns < width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for choice in range(num_choices):
        place = tl.load(places_ptr + token * num_choices + choice)
        total += tl.load(rows_ptr + place * width + columns, mask=is_there, other=0.0).to(tl.float32)
    tl.store(sums_ptr + token * width + columns, total.to(sums_ptr.dtype.element_ty), mask=is_there)
