"""All experts in one grouped matrix product per projection: on an accelerator a product for each expert would leave it idle between them.

Knows the mathematics of the experts, and how rows of tokens become rows of assignments and back. Must not know how queues came about,
nor when this way pays (experts.py). Shape letters: see routing.py.

    x_A = the row of each assignment's token      in = x_A I^T      h = w * activation(in)      y_t = sum over t's assignments of h O^T

w weighs h, which is narrower than the output. Nothing waits for the device: the lengths of the queues stay on it as offsets.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from moecli.moe.activations import Activation, kernels_pay, swiglu, weighed_swiglu
from moecli.moe.dispatch import ExpertQueues


def run_grouped(
    x_TD: Tensor, queues: ExpertQueues, in_proj_EFD: Tensor, out_proj_EDH: Tensor, activation: Activation, dtype: torch.dtype
) -> Tensor:
    """[T, D] -> [T, D] in `dtype`, in which the products are taken. grouped_mm does not follow autocast: the casts are spelled out."""
    places_TK = _places_of_tokens(queues, len(x_TD))
    x_AD = _ToAssignments.apply(x_TD.to(dtype), queues.token_ids_A, places_TK)
    ends_E = queues.load_E.cumsum(0).to(torch.int32)
    in_AF = F.grouped_mm(x_AD, in_proj_EFD.to(dtype).transpose(1, 2), offs=ends_E)
    hidden_AH = _weighed_hidden(in_AF, queues.weights_A, activation)
    out_AD = F.grouped_mm(hidden_AH, out_proj_EDH.to(dtype).transpose(1, 2), offs=ends_E)
    return _ToTokens.apply(out_AD, queues.token_ids_A, places_TK, len(x_TD))


def _weighed_hidden(in_AF: Tensor, weights_A: Tensor, activation: Activation) -> Tensor:
    if activation.function is swiglu and kernels_pay(in_AF):
        return weighed_swiglu(in_AF, weights_A)
    return activation.function(in_AF) * weights_A[:, None].to(in_AF.dtype)


class _ToAssignments(Function):
    """(x_TD, token_ids_A, places_TK) -> x_AD: each assignment gets its token's row, and a token the sum of its assignments' gradients."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_ids_A: Tensor, places_TK: Tensor | None) -> Tensor:
        ctx.save_for_backward(token_ids_A, places_TK)
        ctx.num_tokens = len(x_TD)
        return x_TD.index_select(0, token_ids_A)

    @staticmethod
    def backward(ctx: Any, grad_AD: Tensor) -> tuple[Tensor | None, ...]:
        token_ids_A, places_TK = ctx.saved_tensors
        return _sum_by_token(grad_AD, token_ids_A, places_TK, ctx.num_tokens), None, None


class _ToTokens(Function):
    """(out_AD, token_ids_A, places_TK, T) -> y_TD: the other way round."""

    @staticmethod
    def forward(ctx: Any, out_AD: Tensor, token_ids_A: Tensor, places_TK: Tensor | None, num_tokens: int) -> Tensor:
        ctx.save_for_backward(token_ids_A)
        return _sum_by_token(out_AD, token_ids_A, places_TK, num_tokens)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        (token_ids_A,) = ctx.saved_tensors
        return grad_TD.index_select(0, token_ids_A), None, None, None


def _places_of_tokens(queues: ExpertQueues, num_tokens: int) -> Tensor | None:
    """int64 [T, K]: where each token's assignments stand in the queues; None where tokens have different numbers of them."""
    if queues.order_A is None:
        return None
    order_A = queues.order_A
    places_A = torch.empty_like(order_A).scatter_(0, order_A, torch.arange(len(order_A), device=order_A.device))
    return places_A.view(num_tokens, -1)


def _sum_by_token(rows_AD: Tensor, token_ids_A: Tensor, places_TK: Tensor | None, num_tokens: int) -> Tensor:
    """[A, D] -> [T, D]; added up in float32 either way."""
    if places_TK is not None:  # each token fetches its K rows: nothing is added up in memory
        return _sum_at_places(rows_AD, places_TK)
    sums_TD = rows_AD.new_zeros(num_tokens, rows_AD.shape[1], dtype=torch.float32)
    return sums_TD.index_add_(0, token_ids_A, rows_AD.float()).to(rows_AD.dtype)


def _sum_at_places(rows_AD: Tensor, places_TK: Tensor) -> Tensor:
    if kernels_pay(rows_AD):
        from moecli.moe.cuda_kernels import sum_rows

        return sum_rows(rows_AD, places_TK)
    if torch.compiler.is_compiling():  # written out, a compiler makes one pass of it; a reduction over rows comes out three times as slow
        first_TD, *others = (rows_AD[places_T].float() for places_T in places_TK.unbind(dim=1))
        return sum(others, start=first_TD).to(rows_AD.dtype)
    return rows_AD[places_TK].sum(dim=1)
