"""E feed-forward networks with stacked weights, run on queues of tokens that are sorted by expert.

Knows the ways of running them, each proved against the same oracle, and when each pays. Must not know how the queues came about.
Shape letters: see routing.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from moecli.moe.activations import ACTIVATIONS, Activation, ActivationName
from moecli.moe.blocked_experts import BlockedExperts
from moecli.moe.dispatch import ExpertQueues
from moecli.moe.few_tokens import run_gathered, run_one_token
from moecli.moe.grouped_experts import run_grouped
from moecli.moe.linear import compute_dtype, linear
from moecli.moe.routing import Routing

# grouped_mm wants the rows of both matrices to start at multiples of so many bytes.
GROUPED_MM_ALIGNMENT_BYTES = 16
# Assignments of a compiled step of generation, which reads the weights of each. More are a batch, whose experts are read once.
MOST_GATHERED = 1024


class Experts(nn.Module):
    """y_t = sum over the assignments (t, e, w) of w * out_e(activation(in_e(x_t))). No biases.

    Args:
        num_experts: E.
        d_model: D.
        d_expert: H, the hidden width of one expert.
        activation: a name in ACTIVATIONS. With a gate, the first H rows of `in_proj[e]` are the gate, the next H the up projection.
    """

    def __init__(self, num_experts: int, d_model: int, d_expert: int, activation: ActivationName) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.in_proj = nn.Parameter(torch.empty(num_experts, self.activation.in_width(d_expert), d_model))
        self.out_proj = nn.Parameter(torch.empty(num_experts, d_model, d_expert))

    @property
    def num_experts(self) -> int:
        return self.in_proj.shape[0]

    @property
    def params_per_expert(self) -> int:
        return self.in_proj[0].numel() + self.out_proj[0].numel()

    def forward(self, x_TD: Tensor, queues: ExpertQueues, beside: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """[T, D] -> [T, D]. A token without any assignment gets zeros.

        Args:
            beside: what is added for every token, as function of x_TD. Experts on other processes have it computed while tokens travel.
        """
        # With fewer assignments than experts, as in generation, a grouped product would cast the weights of idle experts.
        has_work_for_all = len(queues.token_ids_A) >= self.num_experts
        run = run_grouped if has_work_for_all and can_run_grouped(x_TD, self.in_proj, self.out_proj) else run_blocked
        y_TD = run(x_TD, queues, self.in_proj, self.out_proj, self.activation, compute_dtype(x_TD))
        return y_TD if beside is None else y_TD + beside(x_TD)

    def needs_queues(self, routing: Routing) -> bool:
        """Whether a routing has to be sorted by expert before these experts can run. Not so outside of autograd for a single token, nor
        for a compiler, for which lengths of queues would be data, as long as there are so few that it pays; and not if some of the experts
        live elsewhere."""
        if torch.is_grad_enabled() or len(self.in_proj) < self.num_experts:
            return True
        if torch.compiler.is_compiling():
            return len(routing.expert_ids_A) > MOST_GATHERED
        return not (routing.has_all_choices and len(routing.logits_TE) == 1)

    def forward_unsorted(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """What `forward` computes for the queues of all assignments, where these are not needed."""
        chosen = (routing.expert_ids_A, routing.weights_A, self.in_proj, self.out_proj, self.activation, compute_dtype(x_TD))
        if not torch.compiler.is_compiling():
            return run_one_token(x_TD, *chosen)
        out_AD = run_gathered(x_TD[routing.token_ids_A], *chosen)
        if routing.has_all_choices:
            return out_AD.unflatten(0, (len(x_TD), -1)).sum(dim=1)
        return torch.zeros_like(x_TD, dtype=out_AD.dtype).index_add(0, routing.token_ids_A, out_AD)

    def forward_all(self, x_TD: Tensor, weights_TE: Tensor) -> Tensor:
        """Every expert on every token, [T, D] -> [T, D]: one wide network whose hidden state is weighted expert by expert."""
        num_experts, d_model, hidden = self.out_proj.shape
        in_TEF = linear(x_TD, self.in_proj.flatten(0, 1)).unflatten(-1, (num_experts, -1))
        hidden_TEH = self.activation.function(in_TEF)
        weighted_TEH = hidden_TEH * weights_TE[:, :, None].to(hidden_TEH.dtype)
        return linear(weighted_TEH.flatten(1), self.out_proj.transpose(0, 1).reshape(d_model, num_experts * hidden))

    def forward_own(self, x_END: Tensor) -> Tensor:
        """Each expert on rows of its own, [E, N, D] -> [E, N, D]."""
        hidden_ENH = self.activation.function(x_END @ self.in_proj.transpose(1, 2))
        return hidden_ENH @ self.out_proj.transpose(1, 2)


def can_run_grouped(x_TD: Tensor, in_proj_EFD: Tensor, out_proj_EDH: Tensor) -> bool:
    """Whether `run_grouped` works here and pays: on CUDA, in bfloat16, with aligned rows. On CPUs memory traffic decides against it."""
    dtype = compute_dtype(x_TD)
    widths = (in_proj_EFD.shape[1], in_proj_EFD.shape[2], out_proj_EDH.shape[2])
    aligned = all(width * dtype.itemsize % GROUPED_MM_ALIGNMENT_BYTES == 0 for width in widths)
    return x_TD.is_cuda and dtype == torch.bfloat16 and aligned


# The lengths of the queues are data: a compiler would specialise on each new set of them, so it runs this part as it stands.
@torch.compiler.disable
def run_blocked(
    x_TD: Tensor, queues: ExpertQueues, in_proj_EFD: Tensor, out_proj_EDH: Tensor, activation: Activation, dtype: torch.dtype
) -> Tensor:
    """Block by block, as CPUs like it; the weights of experts without tokens are not touched."""
    lengths = queues.load_E.tolist()
    if not torch.is_grad_enabled():  # the weights ask for gradients all the same, and something would be kept for them
        in_proj_EFD, out_proj_EDH = in_proj_EFD.detach(), out_proj_EDH.detach()
    with torch.autocast(x_TD.device.type, enabled=False):  # the casts are spelled out
        return BlockedExperts.apply(x_TD, queues.weights_A, in_proj_EFD, out_proj_EDH, queues.token_ids_A, lengths, activation, dtype)
