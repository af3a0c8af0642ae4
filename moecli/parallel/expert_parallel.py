"""Experts that live on several processes: tokens travel to them and back (GShard, arXiv 2006.16668, section 3.2).

Knows queues of tokens and the processes of an expert group. Must not know which router made the queues, nor the losses: outside of this
module nothing can tell where an expert lives. Shape letters: see moe/routing.py; X processes, L experts of each (E / X), R rows received.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from moecli.moe.dispatch import ExpertQueues
from moecli.moe.experts import Experts
from moecli.moe.linear import compute_dtype


class ExpertParallel(Experts):
    """Takes the place of a layer's experts: has the stacked weights of L of them, x * L to (x + 1) * L, under the same names.

    1. Dispatch has sorted the assignments by expert, which is by process too: their rows are sent as they lie. While they travel, what is
       computed beside the routed experts (shared ones) is.
    2. The rows that come, from each process sorted by expert, are queues for the experts that live here.
    3. The outputs go back the same way, and each is weighed and added to its token where the token lives.

    Args:
        whole: the experts of all processes.
        group: the X processes, in the order in which they hold the experts.
    """

    def __init__(self, whole: Experts, group: dist.ProcessGroup) -> None:
        nn.Module.__init__(self)
        self.activation = whole.activation
        self._group = group
        per_rank, first = whole.num_experts // group.size(), group.rank() * (whole.num_experts // group.size())
        assert per_rank * group.size() == whole.num_experts, "the recipe check lets no other degree pass"
        self.in_proj = nn.Parameter(whole.in_proj.detach()[first : first + per_rank].clone())
        self.out_proj = nn.Parameter(whole.out_proj.detach()[first : first + per_rank].clone())

    @property
    def num_experts(self) -> int:
        """E: of all processes."""
        return self.in_proj.shape[0] * self._group.size()

    def forward(self, x_TD: Tensor, queues: ExpertQueues, beside: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """[T, D] -> [T, D] in float32. A token without any assignment gets zeros. All processes of the group have to call it."""
        dtype = compute_dtype(x_TD)
        counts_XL = self._exchange_counts(queues.load_E)
        sent_X, received_X = torch.stack((queues.load_E.view(self._group.size(), -1).sum(1), counts_XL.sum(1))).tolist()
        out, back = Exchange(sent_X, received_X, self._group), Exchange(received_X, sent_X, self._group)
        travelling_RD = Send.apply(x_TD.index_select(0, queues.token_ids_A).to(dtype), out)
        beside_TD = None if beside is None else beside(x_TD)
        x_RD = Arrive.apply(travelling_RD, out)
        y_RD = super().forward(x_RD, _local_queues(counts_XL, sum(received_X))).to(dtype)
        y_AD = Arrive.apply(Send.apply(y_RD, back), back)
        y_TD = torch.zeros_like(x_TD, dtype=queues.weights_A.dtype).index_add(0, queues.token_ids_A, y_AD * queues.weights_A[:, None])
        return y_TD if beside_TD is None else y_TD + beside_TD

    def _exchange_counts(self, load_E: Tensor) -> Tensor:
        """int64 [X, L]: how many rows each process has for each of the experts here."""
        counts_E = torch.empty_like(load_E)
        dist.all_to_all_single(counts_E, load_E, group=self._group)
        return counts_E.view(self._group.size(), -1)


def expert_stacks(model: nn.Module) -> set[str]:
    """The names of the parameters whose first dimension is shared out over the processes of an expert group."""
    modules = {name: module for name, module in model.named_modules() if isinstance(module, ExpertParallel)}
    return {f"{name}.{own}" for name, module in modules.items() for own, _ in module.named_parameters()}


def _local_queues(counts_XL: Tensor, num_rows: int) -> ExpertQueues:
    """Rows as they came, [X, L] blocks of them one after the other, as queues by expert, in the order of arrival and with weight 1."""
    num_ranks, num_local = counts_XL.shape
    expert_XL = torch.arange(num_local, device=counts_XL.device).repeat(num_ranks)
    expert_R = expert_XL.repeat_interleave(counts_XL.flatten(), output_size=num_rows)
    order_R = expert_R.argsort(stable=True)
    ones_R = torch.ones(num_rows, device=counts_XL.device)
    return ExpertQueues(token_ids_A=order_R, weights_A=ones_R, load_E=counts_XL.sum(0), order_A=order_R)


@dataclass(slots=True)
class Exchange:
    """Rows that travel over a group, and later their gradients back: the first sent_X[0] rows go to process 0, the next sent_X[1] to
    process 1, and so on."""

    sent_X: Sequence[int]
    received_X: Sequence[int]
    group: dist.ProcessGroup
    _under_way: dist.Work | None = field(default=None, init=False)
    _gradient_AD: Tensor | None = field(default=None, init=False)

    def start(self, rows_AD: Tensor) -> Tensor:
        """The rows that come, [R, D]: not to be read before `wait`."""
        return self._start(rows_AD, self.sent_X, self.received_X)

    def start_gradient(self, grad_RD: Tensor) -> None:
        self._gradient_AD = self._start(grad_RD, self.received_X, self.sent_X)

    def wait(self) -> None:
        assert self._under_way is not None, "nothing was sent"
        self._under_way.wait()
        self._under_way = None

    def wait_for_gradient(self) -> Tensor:
        self.wait()
        gradient_AD, self._gradient_AD = self._gradient_AD, None
        assert gradient_AD is not None
        return gradient_AD

    def _start(self, rows: Tensor, sent_X: Sequence[int], received_X: Sequence[int]) -> Tensor:
        received = rows.new_empty(sum(received_X), rows.shape[1])
        self._under_way = dist.all_to_all_single(
            received, rows.contiguous(), list(received_X), list(sent_X), group=self.group, async_op=True
        )
        return received


class Send(Function):
    """(rows_AD, exchange) -> rows_RD, which are on their way until `Arrive`. What comes between the two is computed while they travel, and
    its gradient while theirs do: autograd goes back in the order in which it came.

    Written out around the public collective: torch's own with gradient, in torch.distributed.nn and as a functional collective, are not
    documented as stable, and this one shows a watcher (traffic.py) the same operation in both directions.
    """

    @staticmethod
    def forward(ctx: Any, rows_AD: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.start(rows_AD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.wait_for_gradient(), None


class Arrive(Function):
    """(rows_RD, exchange) -> the rows, which are there."""

    @staticmethod
    def forward(ctx: Any, rows_RD: Tensor, exchange: Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.wait()
        return rows_RD.view_as(rows_RD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_RD: Tensor) -> tuple[Tensor, None]:
        ctx.exchange.start_gradient(grad_RD)
        return grad_RD, None  # of the shape that autograd asks for: `Send` has the gradient
