"""The experts block by block, with a backward pass written by hand: on CPUs memory traffic decides, and this moves the fewest bytes.

Knows the mathematics of one expert. Must not know how queues came about, nor when this way pays (experts.py).
Shape letters: see routing.py; N the rows of a block, M those of one expert in it.

For one expert with the input projection I [F, D], the output projection O [D, H], and its tokens' rows x:

    in = x I^T        h = activation(in)        y += (w * h) O^T        (w weighs h, which is narrower than the output)

and with g the gradient of the tokens' outputs:

    dh = g O        dw = sum(dh * h)        dO = g^T (w * h)        din = activation'(in) (w * dh)        dI = din^T x        dx += din I

Between the passes only `in` is kept: the rows of x are gathered again, and h is computed again, both while they fit into the cache.
Each weight gradient is written once, into its place. Where experts are small, several share a block, and with it the cost of calling
an operation: only the products are taken expert by expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moecli.moe.activations import Activation

# What the rows of a block may take, so that they stay in the cache from one operation to the next. An expert's queue is never cut.
BLOCK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring experts that have tokens."""

    rows: slice
    """The place of their queues among the assignments."""
    experts: tuple[int, ...]
    lengths: tuple[int, ...]
    """Rows of each."""

    def split(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        """(expert, its rows of each tensor), expert by expert."""
        return zip(self.experts, *(tensor.split(self.lengths) for tensor in tensors), strict=True)


class BlockedExperts(Function):
    """(x_TD, weights_A, in_proj_EFD, out_proj_EDH, token_ids_A, lengths, activation, dtype) -> y_TD.

    Products are taken in `dtype` and added up in the dtype of weights_A. The weights of idle experts are not read, their gradients are 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        weights_A: Tensor,
        in_proj_EFD: Tensor,
        out_proj_EDH: Tensor,
        token_ids_A: Tensor,
        lengths: list[int],
        activation: Activation,
        dtype: torch.dtype,
    ) -> Tensor:
        y_TD = torch.zeros_like(x_TD, dtype=weights_A.dtype)
        ctx.blocks = blocks_of(lengths, row_bytes=2 * (in_proj_EFD.shape[1] + x_TD.shape[1]) * dtype.itemsize)
        keeps = any(ctx.needs_input_grad)  # without a backward pass the blocks take turns in the room of the largest
        num_rows = len(token_ids_A) if keeps else max((sum(block.lengths) for block in ctx.blocks), default=0)
        in_AF = x_TD.new_empty(num_rows, in_proj_EFD.shape[1], dtype=dtype)
        in_projs, out_projs = in_proj_EFD.unbind(), out_proj_EDH.unbind()
        for block in ctx.blocks:
            ids_N = token_ids_A[block.rows]
            in_NF = in_AF[block.rows] if keeps else in_AF[: len(ids_N)]
            x_ND = x_TD.index_select(0, ids_N).to(dtype)
            for expert, x_MD, in_MF in block.split(x_ND, in_NF):
                torch.mm(x_MD, in_projs[expert].to(dtype).t(), out=in_MF)
            hidden_NH = activation.function(in_NF).mul_(weights_A[block.rows, None])
            y_ND = torch.empty_like(x_ND)
            for expert, hidden_MH, y_MD in block.split(hidden_NH, y_ND):
                torch.mm(hidden_MH, out_projs[expert].to(dtype).t(), out=y_MD)
            y_TD.index_add_(0, ids_N, y_ND.to(y_TD.dtype))
        ctx.save_for_backward(x_TD, weights_A, in_proj_EFD, out_proj_EDH, token_ids_A, in_AF)
        ctx.idle_experts = [expert for expert, length in enumerate(lengths) if length == 0]
        ctx.activation, ctx.dtype = activation, dtype
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_A, in_proj_EFD, out_proj_EDH, token_ids_A, in_AF = ctx.saved_tensors
        _, _, trains_in_proj, trains_out_proj, *_ = ctx.needs_input_grad
        dtype = ctx.dtype
        dx_TD, dweights_A = torch.zeros_like(x_TD), torch.empty_like(weights_A)
        din_proj_EFD = _empty_gradient(in_proj_EFD, ctx.idle_experts) if trains_in_proj else None
        dout_proj_EDH = _empty_gradient(out_proj_EDH, ctx.idle_experts) if trains_out_proj else None
        in_projs, out_projs = in_proj_EFD.unbind(), out_proj_EDH.unbind()
        for block in ctx.blocks:
            ids_N, weights_N1 = token_ids_A[block.rows], weights_A[block.rows, None]
            grad_ND = grad_TD.index_select(0, ids_N).to(dtype)
            dhidden_NH = grad_ND.new_empty(len(ids_N), out_proj_EDH.shape[2])
            for expert, grad_MD, dhidden_MH in block.split(grad_ND, dhidden_NH):
                torch.mm(grad_MD, out_projs[expert].to(dtype), out=dhidden_MH)
            hidden_NH, din_NF = ctx.activation.with_gradient(in_AF[block.rows], dhidden_NH)
            dweights_A[block.rows] = dhidden_NH.mul_(hidden_NH).sum(dim=1, dtype=weights_A.dtype)
            if dout_proj_EDH is not None:
                _write_weight_gradients(block, grad_ND, hidden_NH.mul_(weights_N1), dout_proj_EDH)
            din_NF.mul_(weights_N1)
            if din_proj_EFD is not None:
                _write_weight_gradients(block, din_NF, x_TD.index_select(0, ids_N).to(dtype), din_proj_EFD)
            dx_ND = grad_ND  # whose rows are read no more
            for expert, din_MF, dx_MD in block.split(din_NF, dx_ND):
                torch.mm(din_MF, in_projs[expert].to(dtype), out=dx_MD)
            dx_TD.index_add_(0, ids_N, dx_ND.to(dx_TD.dtype))
        return dx_TD, dweights_A, din_proj_EFD, dout_proj_EDH, None, None, None, None


def blocks_of(lengths: list[int], row_bytes: int) -> list[Block]:
    """The experts that have tokens, in blocks that fill BLOCK_BYTES at most, or of one expert."""
    groups: list[list[int]] = []
    num_bytes = 0
    for expert, length in enumerate(lengths):
        if length == 0:
            continue
        num_bytes += length * row_bytes
        if not groups or num_bytes > BLOCK_BYTES:
            groups.append([])
            num_bytes = length * row_bytes
        groups[-1].append(expert)
    blocks, start = [], 0
    for experts in groups:
        block_lengths = tuple(lengths[expert] for expert in experts)
        blocks.append(Block(slice(start, start + sum(block_lengths)), tuple(experts), block_lengths))
        start += sum(block_lengths)
    return blocks


def _empty_gradient(weight: Tensor, idle_experts: list[int]) -> Tensor:
    """Room for the gradient of stacked weights, 0 already for the experts that nothing is written for."""
    gradient = torch.empty_like(weight)
    for expert in idle_experts:
        gradient[expert].zero_()
    return gradient


def _write_weight_gradients(block: Block, doutput_NO: Tensor, input_NI: Tensor, gradient_EOI: Tensor) -> None:
    """doutput^T input for each expert of the block, without a copy where the dtypes are the same."""
    for expert, doutput_MO, input_MI in block.split(doutput_NO, input_NI):
        if gradient_EOI.dtype == input_MI.dtype:
            torch.mm(doutput_MO.t(), input_MI, out=gradient_EOI[expert])
        else:
            gradient_EOI[expert].copy_(doutput_MO.t() @ input_MI)
