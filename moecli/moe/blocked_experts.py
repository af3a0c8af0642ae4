"""The experts block by block, with a backward pass written by hand: on CPUs memory traffic decides, and this moves the fewest bytes.

Knows the mathematics of one expert. Must not know how queues came about, nor when this way pays (experts.py).
Shape letters: see routing.py; R the rows of all queues (queue_rows.py), N those of a block, M those of one expert in it.

For one expert with the input projection I [F, D], the output projection O [D, H], and its tokens' rows x:

    in = x I^T        h = activation(in)        y += (w * h) O^T        (w weighs h, which is narrower than the output)

and with g the gradient of the tokens' outputs:

    dh = g O        dw = sum(dh * h)        dO = g^T (w * h)        din = activation'(in) (w * dh)        dI = din^T x        dx += din I

Between the passes only `in` is kept: the rows of x are gathered again, and h is computed again, both while they fit into the cache.
Each weight gradient is written once, into its place. Where experts are small, several share a block, and with it the cost of calling an
operation: only the products are taken expert by expert. Those of experts with many tokens are oneDNN's, where it is faster.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moecli.moe import onednn
from moecli.moe.activations import Activation
from moecli.moe.queue_rows import fill_up

# What the rows of a block may take, so that they stay in the cache from one operation to the next. An expert's queue is never cut.
BLOCK_BYTES = 4 * 2**20
# From so many multiplications on in the smaller of its products an expert is for oneDNN.
LEAST_FOR_ONEDNN = 2**22


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring experts that have tokens."""

    rows: slice
    """The place of their queues among the rows of all."""
    experts: tuple[int, ...]
    lengths: tuple[int, ...]
    """Rows of each."""
    onednn_from: float
    """From so many rows on products are oneDNN's."""

    def product(self, x_NI: Tensor, weights_IO: Sequence[Tensor]) -> Tensor:
        """x W with the weights of each expert, [N, I] -> [N, O]."""
        if len(self.experts) == 1 and self.lengths[0] >= self.onednn_from:
            return onednn.product(x_NI, weights_IO[self.experts[0]].t().to(x_NI.dtype))
        y_NO = x_NI.new_empty(len(x_NI), weights_IO[0].shape[1])
        for expert, length, x_MI, y_MO in self._each(x_NI, y_NO):
            weight_IO = weights_IO[expert].to(x_NI.dtype)
            if length >= self.onednn_from:
                y_MO.copy_(onednn.product(x_MI, weight_IO.t()))
            else:
                torch.mm(x_MI, weight_IO, out=y_MO)
        return y_NO

    def write_weight_gradients(self, doutput_NO: Tensor, input_NI: Tensor, gradients_OI: Sequence[Tensor]) -> None:
        """doutput^T input of each expert."""
        is_cast = gradients_OI[0].dtype != input_NI.dtype
        for expert, length, doutput_MO, input_MI in self._each(doutput_NO, input_NI):
            if length >= self.onednn_from:
                gradients_OI[expert].copy_(onednn.weight_gradient(doutput_MO, input_MI))
            elif is_cast:
                gradients_OI[expert].copy_(doutput_MO.t() @ input_MI)
            else:
                torch.mm(doutput_MO.t(), input_MI, out=gradients_OI[expert])

    def _each(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
        """(expert, its number of rows, its rows of each tensor), expert by expert."""
        return zip(self.experts, self.lengths, *(tensor.split(self.lengths) for tensor in tensors), strict=True)


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
        onednn_from = LEAST_FOR_ONEDNN / out_proj_EDH[0].numel() if onednn.takes(dtype, x_TD.device) else math.inf
        rows = fill_up(token_ids_A, weights_A, lengths, from_length=onednn_from)
        blocks = blocks_of(rows.lengths, 2 * (in_proj_EFD.shape[1] + x_TD.shape[1]) * dtype.itemsize, onednn_from)
        in_projs_DF, out_projs_HD = in_proj_EFD.transpose(1, 2).unbind(), out_proj_EDH.transpose(1, 2).unbind()
        keeps, kept = any(ctx.needs_input_grad), []
        for block in blocks:
            ids_N = rows.token_ids_R[block.rows]
            in_NF = block.product(x_TD.index_select(0, ids_N).to(dtype), in_projs_DF)
            hidden_NH = activation.function(in_NF).mul_(rows.weights_R[block.rows, None])
            y_TD.index_add_(0, ids_N, block.product(hidden_NH, out_projs_HD).to(y_TD.dtype))
            if keeps:
                kept.append(in_NF)
            del in_NF, hidden_NH  # if not kept, the next block has their room
        ctx.save_for_backward(x_TD, in_proj_EFD, out_proj_EDH, rows.token_ids_R, rows.weights_R, rows.is_real_R, *kept)
        ctx.idle_experts = [expert for expert, length in enumerate(lengths) if length == 0]
        ctx.blocks, ctx.activation, ctx.dtype = blocks, activation, dtype
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, in_proj_EFD, out_proj_EDH, token_ids_R, weights_R, is_real_R, *kept = ctx.saved_tensors
        _, _, trains_in_proj, trains_out_proj, *_ = ctx.needs_input_grad
        dx_TD, dweights_R = torch.zeros_like(x_TD), torch.empty_like(weights_R)
        din_proj_EFD = _empty_gradient(in_proj_EFD, ctx.idle_experts) if trains_in_proj else None
        dout_proj_EDH = _empty_gradient(out_proj_EDH, ctx.idle_experts) if trains_out_proj else None
        in_projs_FD, out_projs_DH = in_proj_EFD.unbind(), out_proj_EDH.unbind()
        for block, in_NF in zip(ctx.blocks, kept, strict=True):
            ids_N, weights_N1 = token_ids_R[block.rows], weights_R[block.rows, None]
            grad_ND = grad_TD.index_select(0, ids_N).to(ctx.dtype)
            dhidden_NH = block.product(grad_ND, out_projs_DH)
            hidden_NH, din_NF = ctx.activation.with_gradient(in_NF, dhidden_NH)
            dweights_R[block.rows] = dhidden_NH.mul_(hidden_NH).sum(dim=1, dtype=weights_R.dtype)
            if dout_proj_EDH is not None:
                block.write_weight_gradients(grad_ND, hidden_NH.mul_(weights_N1), dout_proj_EDH.unbind())
            din_NF.mul_(weights_N1)
            if din_proj_EFD is not None:
                block.write_weight_gradients(din_NF, x_TD.index_select(0, ids_N).to(ctx.dtype), din_proj_EFD.unbind())
            dx_TD.index_add_(0, ids_N, block.product(din_NF, in_projs_FD).to(dx_TD.dtype))
        dweights_A = dweights_R if is_real_R is None else dweights_R[is_real_R]
        return dx_TD, dweights_A, din_proj_EFD, dout_proj_EDH, None, None, None, None


def blocks_of(lengths: list[int], row_bytes: int, onednn_from: float) -> list[Block]:
    """The experts that have rows, in blocks that fill BLOCK_BYTES at most, or of one expert."""
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
        blocks.append(Block(slice(start, start + sum(block_lengths)), tuple(experts), block_lengths, onednn_from))
        start += sum(block_lengths)
    return blocks


def _empty_gradient(weight: Tensor, idle_experts: list[int]) -> Tensor:
    """Room for the gradient of stacked weights, 0 already for the experts that nothing is written for."""
    gradient = torch.empty_like(weight)
    for expert in idle_experts:
        gradient[expert].zero_()
    return gradient
