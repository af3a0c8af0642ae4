"""The experts block by block, with a backward pass written by hand: on CPUs memory traffic decides, and this moves the fewest bytes.

Knows the mathematics of one expert. Must not know how queues came about, nor when this way pays (experts.py).
Shape letters: see routing.py; N the rows of a block, M those of one expert in it.

For one expert with the input projection I [F, D], the output projection O [D, H], and its tokens' rows x:

    in = x I^T        h = activation(in)        y += (w * h) O^T        (w weighs h, which is narrower than the output)

and with g the gradient of the tokens' outputs:

    dh = g O        dw = sum(dh * h)        dO = g^T (w * h)        din = activation'(in) (w * dh)        dI = din^T x        dx += din I

Between the passes only `in` is kept: the rows of x are gathered again, and h is computed again, both while they fit into the cache.
Where experts are small, several share a block, and with it the cost of calling an operation: only the products are taken expert by
expert, and each weight gradient is written once, into its place. Large ones have a block each, and oneDNN where that is faster
(onednn.py): its rows are filled up to a round number with zeros, which stay zeros in every product and sum.
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

# What the rows of a block may take, so that they stay in the cache from one operation to the next. An expert's queue is never cut.
BLOCK_BYTES = 4 * 2**20
# From so many multiplications on in the smaller of its products an expert is large.
LEAST_OF_LARGE_EXPERT = 2**22


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring experts that have tokens."""

    assignments: slice
    """The place of their queues among all."""
    experts: tuple[int, ...]
    lengths: tuple[int, ...]
    """Assignments of each."""
    by_onednn: bool
    """So for one large expert, where oneDNN is faster."""

    @property
    def num_assignments(self) -> int:
        return sum(self.lengths)

    @property
    def num_rows(self) -> int:
        return onednn.round_rows(self.num_assignments) if self.by_onednn else self.num_assignments

    def gather(self, x_TD: Tensor, ids_A: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of the tokens that the assignments say, and rows of zeros after them."""
        if self.num_rows == self.num_assignments:
            return x_TD.index_select(0, ids_A).to(dtype)
        x_ND = x_TD.new_empty(self.num_rows, x_TD.shape[1])
        torch.index_select(x_TD, 0, ids_A, out=x_ND[: self.num_assignments])
        x_ND[self.num_assignments :] = 0
        return x_ND.to(dtype)

    def product(self, x_NI: Tensor, weights_OI: Sequence[Tensor]) -> Tensor:
        """x W^T with the weights of each expert, [N, I] -> [N, O]."""
        if self.by_onednn:
            return onednn.product(x_NI, weights_OI[self.experts[0]])
        y_NO = x_NI.new_empty(self.num_rows, len(weights_OI[0]))
        for expert, x_MI, y_MO in self._split(x_NI, y_NO):
            torch.mm(x_MI, weights_OI[expert].to(x_NI.dtype).t(), out=y_MO)
        return y_NO

    def write_weight_gradients(self, doutput_NO: Tensor, input_NI: Tensor, gradient_EOI: Tensor) -> None:
        """doutput^T input of each expert, without a copy where the dtypes are the same and oneDNN, which can't write into a place, is not used."""
        if self.by_onednn:
            gradient_EOI[self.experts[0]] = onednn.weight_gradient(doutput_NO, input_NI)
            return
        for expert, doutput_MO, input_MI in self._split(doutput_NO, input_NI):
            if gradient_EOI.dtype == input_MI.dtype:
                torch.mm(doutput_MO.t(), input_MI, out=gradient_EOI[expert])
            else:
                gradient_EOI[expert].copy_(doutput_MO.t() @ input_MI)

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
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
        row_bytes = 2 * (in_proj_EFD.shape[1] + x_TD.shape[1]) * dtype.itemsize
        has_large = onednn.takes(dtype, x_TD.device)
        blocks = blocks_of(lengths, row_bytes, LEAST_OF_LARGE_EXPERT / out_proj_EDH[0].numel() if has_large else math.inf)
        in_projs, out_projs = in_proj_EFD.unbind(), out_proj_EDH.unbind()
        kept = []
        for block in blocks:
            ids_A = token_ids_A[block.assignments]
            in_NF = block.product(block.gather(x_TD, ids_A, dtype), in_projs)
            hidden_NH = activation.function(in_NF)
            hidden_NH[: len(ids_A)].mul_(weights_A[block.assignments, None])
            y_ND = block.product(hidden_NH, out_projs)
            y_TD.index_add_(0, ids_A, y_ND[: len(ids_A)].to(y_TD.dtype))
            if any(ctx.needs_input_grad):
                kept.append(in_NF)
        ctx.save_for_backward(x_TD, weights_A, in_proj_EFD, out_proj_EDH, token_ids_A, *kept)
        ctx.idle_experts = [expert for expert, length in enumerate(lengths) if length == 0]
        ctx.blocks, ctx.activation, ctx.dtype = blocks, activation, dtype
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_A, in_proj_EFD, out_proj_EDH, token_ids_A, *kept = ctx.saved_tensors
        _, _, trains_in_proj, trains_out_proj, *_ = ctx.needs_input_grad
        dx_TD, dweights_A = torch.zeros_like(x_TD), torch.empty_like(weights_A)
        din_proj_EFD = _empty_gradient(in_proj_EFD, ctx.idle_experts) if trains_in_proj else None
        dout_proj_EDH = _empty_gradient(out_proj_EDH, ctx.idle_experts) if trains_out_proj else None
        in_projs_DF, out_projs_HD = in_proj_EFD.transpose(1, 2).unbind(), out_proj_EDH.transpose(1, 2).unbind()
        for block, in_NF in zip(ctx.blocks, kept, strict=True):
            ids_A, weights_A1 = token_ids_A[block.assignments], weights_A[block.assignments, None]
            grad_ND = block.gather(grad_TD, ids_A, ctx.dtype)
            dhidden_NH = block.product(grad_ND, out_projs_HD)
            hidden_NH, din_NF = ctx.activation.with_gradient(in_NF, dhidden_NH)
            hidden_AH, dhidden_AH = hidden_NH[: len(ids_A)], dhidden_NH[: len(ids_A)]
            dweights_A[block.assignments] = dhidden_AH.mul_(hidden_AH).sum(dim=1, dtype=weights_A.dtype)
            hidden_AH.mul_(weights_A1)
            din_NF[: len(ids_A)].mul_(weights_A1)
            if dout_proj_EDH is not None:
                block.write_weight_gradients(grad_ND, hidden_NH, dout_proj_EDH)
            if din_proj_EFD is not None:
                block.write_weight_gradients(din_NF, block.gather(x_TD, ids_A, ctx.dtype), din_proj_EFD)
            dx_ND = block.product(din_NF, in_projs_DF)
            dx_TD.index_add_(0, ids_A, dx_ND[: len(ids_A)].to(dx_TD.dtype))
        return dx_TD, dweights_A, din_proj_EFD, dout_proj_EDH, None, None, None, None


def blocks_of(lengths: list[int], row_bytes: int, least_of_large: float) -> list[Block]:
    """The experts that have tokens: each alone from `least_of_large` rows on, the others in blocks of BLOCK_BYTES at most, or of one expert."""
    groups: list[list[int]] = []
    num_bytes = 0
    for expert, length in enumerate(lengths):
        if length == 0:
            continue
        num_bytes += length * row_bytes
        if not groups or num_bytes > BLOCK_BYTES or length >= least_of_large:
            groups.append([])
            num_bytes = BLOCK_BYTES if length >= least_of_large else length * row_bytes  # full
        groups[-1].append(expert)
    blocks, start = [], 0
    for experts in groups:
        block_lengths = tuple(lengths[expert] for expert in experts)
        end = start + sum(block_lengths)
        blocks.append(Block(slice(start, end), tuple(experts), block_lengths, by_onednn=block_lengths[0] >= least_of_large))
        start = end
    return blocks


def _empty_gradient(weight: Tensor, idle_experts: list[int]) -> Tensor:
    """Room for the gradient of stacked weights, 0 already for the experts that nothing is written for."""
    gradient = torch.empty_like(weight)
    for expert in idle_experts:
        gradient[expert].zero_()
    return gradient
