"""The experts block by block, with a backward pass written by hand: on CPUs memory traffic decides, and this moves the fewest bytes.

Knows the mathematics of one expert. Must not know how queues came about, nor when this way pays (experts.py).
Shape letters: see routing.py; N the rows of a block, M those of one expert in it, I inputs and O outputs of a product.

For one expert with the input projection I [F, D], the output projection O [D, H], and its tokens' rows x:

    in = x I^T        h = activation(in)        y += (w * h) O^T        (w weighs h, which is narrower than the output)

and with g the gradient of the tokens' outputs:

    dh = g O        dw = sum(dh * h)        dO = g^T (w * h)        din = activation'(in) (w * dh)        dI = din^T x        dx += din I

Between the passes only `in` is kept: the rows of x are gathered again, and h is computed again, both while they fit into the cache.
Each weight gradient is written once, into its place. Where experts are small, several share a block, and with it the cost of calling an
operation. Their products are one call (grouped_product.py), or taken expert by expert where that does not work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moecli.moe import grouped_product
from moecli.moe.activations import Activation

# What the rows of a block may take, so that they stay in the cache from one operation to the next. An expert's queue is never cut.
BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring experts."""

    rows: slice
    """The place of their queues among those of all."""
    experts: slice
    lengths: tuple[int, ...]
    """Rows of each. The weights of an expert without any are not read."""

    def product(self, x_NI: Tensor, weights_EIO: Tensor) -> Tensor:
        """x W with the weights of each expert, [N, I] -> [N, O]."""
        weights_EIO = weights_EIO[self.experts]
        if grouped_product.takes(x_NI, weights_EIO):
            return grouped_product.product(x_NI, weights_EIO, self.lengths)
        y_NO = x_NI.new_empty(len(x_NI), weights_EIO.shape[2])
        for x_MI, weight_IO, y_MO in self._expert_by_expert(x_NI, weights_EIO, y_NO):
            if len(x_MI):  # else weights would be cast for nothing
                torch.mm(x_MI, weight_IO.to(x_MI.dtype), out=y_MO)
        return y_NO

    def write_weight_gradients(self, doutput_NO: Tensor, input_NI: Tensor, gradients_EOI: Tensor) -> None:
        """doutput^T input of each expert, 0 for one without rows."""
        gradients_EOI = gradients_EOI[self.experts]
        if gradients_EOI.is_contiguous() and grouped_product.takes(doutput_NO, input_NI, gradients_EOI):
            grouped_product.write_weight_gradients(doutput_NO, input_NI, self.lengths, gradients_EOI)
            return
        for doutput_MO, gradient_OI, input_MI in self._expert_by_expert(doutput_NO, gradients_EOI, input_NI):
            if gradient_OI.dtype == input_MI.dtype:
                torch.mm(doutput_MO.t(), input_MI, out=gradient_OI)
            else:
                gradient_OI.copy_(doutput_MO.t() @ input_MI)

    def _expert_by_expert(self, first_N: Tensor, stacked_E: Tensor, second_N: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(first_N.split(self.lengths), stacked_E.unbind(), second_N.split(self.lengths), strict=True)


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
        blocks = blocks_of(lengths, row_bytes=2 * (in_proj_EFD.shape[1] + x_TD.shape[1]) * dtype.itemsize)
        keeps, kept = any(ctx.needs_input_grad), []
        for block in blocks:
            ids_N = token_ids_A[block.rows]
            in_NF = block.product(x_TD.index_select(0, ids_N).to(dtype), in_proj_EFD.transpose(1, 2))
            hidden_NH = activation.function(in_NF).mul_(weights_A[block.rows, None])
            y_TD.index_add_(0, ids_N, block.product(hidden_NH, out_proj_EDH.transpose(1, 2)).to(y_TD.dtype))
            if keeps:
                kept.append(in_NF)
            del in_NF, hidden_NH  # if not kept, the next block has their room
        ctx.save_for_backward(x_TD, in_proj_EFD, out_proj_EDH, token_ids_A, weights_A, *kept)
        ctx.blocks, ctx.activation, ctx.dtype = blocks, activation, dtype
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, in_proj_EFD, out_proj_EDH, token_ids_A, weights_A, *kept = ctx.saved_tensors
        _, _, trains_in_proj, trains_out_proj, *_ = ctx.needs_input_grad
        dx_TD, dweights_A = torch.zeros_like(x_TD), torch.empty_like(weights_A)
        din_proj_EFD = torch.empty_like(in_proj_EFD, memory_format=torch.contiguous_format) if trains_in_proj else None
        dout_proj_EDH = torch.empty_like(out_proj_EDH, memory_format=torch.contiguous_format) if trains_out_proj else None
        for block, in_NF in zip(ctx.blocks, kept, strict=True):
            ids_N, weights_N1 = token_ids_A[block.rows], weights_A[block.rows, None]
            grad_ND = grad_TD.index_select(0, ids_N).to(ctx.dtype)
            dhidden_NH = block.product(grad_ND, out_proj_EDH)
            hidden_NH, din_NF = ctx.activation.with_gradient(in_NF, dhidden_NH)
            dweights_A[block.rows] = dhidden_NH.mul_(hidden_NH).sum(dim=1, dtype=weights_A.dtype)
            if dout_proj_EDH is not None:
                block.write_weight_gradients(grad_ND, hidden_NH.mul_(weights_N1), dout_proj_EDH)
            din_NF.mul_(weights_N1)
            if din_proj_EFD is not None:
                block.write_weight_gradients(din_NF, x_TD.index_select(0, ids_N).to(ctx.dtype), din_proj_EFD)
            dx_TD.index_add_(0, ids_N, block.product(din_NF, in_proj_EFD).to(dx_TD.dtype))
        return dx_TD, dweights_A, din_proj_EFD, dout_proj_EDH, None, None, None, None


def blocks_of(lengths: list[int], row_bytes: int) -> list[Block]:
    """All experts, in blocks that fill BLOCK_BYTES at most, or in which a single expert has rows."""
    blocks: list[Block] = []
    first_row = first_expert = num_rows = 0

    def close(last_expert: int) -> None:
        experts = slice(first_expert, last_expert + 1)
        blocks.append(Block(slice(first_row, first_row + num_rows), experts, tuple(lengths[experts])))

    for expert, length in enumerate(lengths):
        if length and num_rows and (num_rows + length) * row_bytes > BLOCK_BYTES:
            close(expert - 1)
            first_row, first_expert, num_rows = first_row + num_rows, expert, 0
        num_rows += length
    close(len(lengths) - 1)
    return blocks
