"""Both ways of running the experts against the double loop: outputs and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moecli.moe.activations import ACTIVATIONS
from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.experts import Experts, can_run_grouped, run_grouped, run_one_by_one
from moecli.moe.routing import Routing
from tests.moe.oracle import weighted_experts

RUNNERS = {"one_by_one": run_one_by_one, "grouped": run_grouped}
D_MODEL, D_EXPERT = 12, 8  # multiples of 4, as grouped_mm wants in float32


def random_routing(num_tokens: int, num_experts: int, num_assignments: int) -> Routing:
    """Assignments in no order at all: tokens with none, several or twice the same expert, experts with none."""
    return Routing(
        logits_TE=torch.zeros(num_tokens, num_experts),
        probs_TE=torch.full((num_tokens, num_experts), 1 / num_experts),
        token_ids_A=torch.randint(num_tokens, (num_assignments,)),
        expert_ids_A=torch.randint(num_experts, (num_assignments,)),
        weights_A=torch.rand(num_assignments).requires_grad_(),
    )


def outputs_and_gradients(y_TD: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    upstream_TD = torch.linspace(-1, 1, y_TD.numel()).view_as(y_TD)
    return [y_TD.detach(), *torch.autograd.grad(y_TD, leaves, grad_outputs=upstream_TD)]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_tokens", "num_experts", "num_assignments"), [(1, 1, 1), (7, 3, 14), (9, 16, 9), (5, 2, 0), (6, 4, 60)])
def test_equals_the_double_loop_with_every_gradient(runner, activation, num_tokens, num_experts, num_assignments):
    torch.manual_seed(num_tokens)
    experts = Experts(num_experts, D_MODEL, D_EXPERT, activation)
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    x_TD = torch.randn(num_tokens, D_MODEL, requires_grad=True)
    routing = random_routing(num_tokens, num_experts, num_assignments)
    queues, _ = dispatch_dropless(routing)
    leaves = [x_TD, routing.weights_A, experts.in_proj, experts.out_proj]

    y_TD = RUNNERS[runner](x_TD, queues, experts.in_proj, experts.out_proj, experts.activation)
    expected_TD = weighted_experts(activation, x_TD, routing, experts.in_proj, experts.out_proj)
    if num_assignments == 0:
        assert torch.equal(y_TD, torch.zeros_like(x_TD))
        return
    for ours, expected in zip(outputs_and_gradients(y_TD, leaves), outputs_and_gradients(expected_TD, leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_all_is_every_expert_on_every_token(activation):
    torch.manual_seed(0)
    num_tokens, num_experts = 6, 3
    experts = Experts(num_experts, D_MODEL, D_EXPERT, activation)
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    x_TD = torch.randn(num_tokens, D_MODEL, requires_grad=True)
    weights_TE = torch.rand(num_tokens, num_experts, requires_grad=True)
    everything = Routing(
        logits_TE=torch.zeros(num_tokens, num_experts),
        probs_TE=weights_TE,
        token_ids_A=torch.arange(num_tokens).repeat_interleave(num_experts),
        expert_ids_A=torch.arange(num_experts).repeat(num_tokens),
        weights_A=weights_TE.flatten(),
    )
    leaves = [x_TD, weights_TE, experts.in_proj, experts.out_proj]
    y_TD = experts.forward_all(x_TD, weights_TE)
    expected_TD = weighted_experts(activation, x_TD, everything, experts.in_proj, experts.out_proj)
    for ours, expected in zip(outputs_and_gradients(y_TD, leaves), outputs_and_gradients(expected_TD, leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("runner", RUNNERS)
def test_bfloat16_autocast_stays_close_to_float32(runner):
    torch.manual_seed(0)
    experts = Experts(4, 16, 8, "swiglu")
    torch.nn.init.normal_(experts.in_proj, std=0.3)
    torch.nn.init.normal_(experts.out_proj, std=0.3)
    x_TD = torch.randn(32, 16)
    queues, _ = dispatch_dropless(random_routing(32, 4, 64))
    args = (x_TD, queues, experts.in_proj, experts.out_proj, experts.activation)
    exact = RUNNERS[runner](*args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = RUNNERS[runner](*args)
    assert not torch.equal(rounded, exact), "autocast changed nothing: the products were not in bfloat16"
    # bfloat16 keeps 8 bits: each of the two products rounds by up to 2^-8 of the size of its result.
    assert (rounded - exact).norm() / exact.norm() < 0.02


def test_grouped_products_are_left_to_cuda():
    experts = Experts(2, 16, 16, "swiglu")
    assert not can_run_grouped(torch.zeros(4, 16), experts.in_proj, experts.out_proj)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_bfloat16_runs_grouped_and_agrees():
    torch.manual_seed(0)
    experts = Experts(4, 64, 32, "swiglu").cuda()
    torch.nn.init.normal_(experts.in_proj, std=0.3)
    torch.nn.init.normal_(experts.out_proj, std=0.3)
    x_TD = torch.randn(128, 64, device="cuda")
    routing = random_routing(128, 4, 256)
    on_cuda = Routing(*(getattr(routing, name).cuda() for name in Routing.__slots__))
    queues, _ = dispatch_dropless(on_cuda)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert can_run_grouped(x_TD, experts.in_proj, experts.out_proj)
        y_TD = experts(x_TD, queues)
    exact = run_one_by_one(x_TD, queues, experts.in_proj, experts.out_proj, experts.activation)
    assert (y_TD - exact).norm() / exact.norm() < 0.02
