"""All ways of running the experts against the double loop: outputs and every gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from moecli.moe import experts as experts_file
from moecli.moe import grouped_product
from moecli.moe.activations import ACTIVATIONS
from moecli.moe.dispatch import ExpertQueues, dispatch_dropless
from moecli.moe.experts import Experts, can_run_grouped, compute_dtype, run_blocked, run_grouped
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import Routing
from tests.moe.needs import needs_library
from tests.moe.oracle import expert_output, weighted_experts

D_MODEL, D_EXPERT = 12, 8  # multiples of 4, as grouped_mm wants in float32


Run = Callable[..., Tensor]


@pytest.fixture(params=[pytest.param("blocked", marks=needs_library), "blocked, expert by expert", "grouped"])
def run(request, monkeypatch) -> Run:
    """A way of running the experts."""
    if request.param == "blocked, expert by expert":
        monkeypatch.setattr(grouped_product, "LIBRARY", None)
    return run_grouped if request.param == "grouped" else run_blocked


def random_routing(num_tokens: int, num_experts: int, num_assignments: int) -> Routing:
    """Assignments in no order at all: tokens with none, several or twice the same expert, experts with none."""
    return Routing(
        logits_TE=torch.zeros(num_tokens, num_experts),
        probs_TE=torch.full((num_tokens, num_experts), 1 / num_experts),
        token_ids_A=torch.randint(num_tokens, (num_assignments,)),
        expert_ids_A=torch.randint(num_experts, (num_assignments,)),
        weights_A=torch.rand(num_assignments).requires_grad_(),
        choices_A=torch.zeros(num_assignments, dtype=torch.int64),
        top_k=num_experts,
        seq_len=num_tokens,
    )


def outputs_and_gradients(y_TD: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    upstream_TD = torch.linspace(-1, 1, y_TD.numel()).view_as(y_TD)
    return [y_TD.detach(), *torch.autograd.grad(y_TD, leaves, grad_outputs=upstream_TD)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_tokens", "num_experts", "num_assignments"), [(1, 1, 1), (7, 3, 14), (9, 16, 9), (5, 2, 0), (6, 4, 60)])
def test_equals_the_double_loop_with_every_gradient(run, activation, num_tokens, num_experts, num_assignments):
    torch.manual_seed(num_tokens)
    check_against_the_double_loop(run, activation, num_tokens, random_routing(num_tokens, num_experts, num_assignments))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(1, 1, 1), (9, 4, 2), (5, 8, 1), (6, 3, 3)])
def test_all_choices_of_every_token_equal_the_double_loop(run, activation, num_tokens, num_experts, top_k):
    torch.manual_seed(num_tokens)
    probs_TE = torch.rand(num_tokens, num_experts).softmax(dim=-1)
    weights_TK, expert_ids_TK = probs_TE.topk(top_k)
    weights_TK = weights_TK.requires_grad_()
    routing = token_choice(probs_TE, probs_TE, expert_ids_TK, weights_TK, seq_len=num_tokens)
    assert dispatch_dropless(routing)[0].order_A is not None
    check_against_the_double_loop(run, activation, num_tokens, routing)


def check_against_the_double_loop(run: Run, activation: str, num_tokens: int, routing: Routing) -> None:
    experts = Experts(routing.num_experts, D_MODEL, D_EXPERT, activation)
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    x_TD = torch.randn(num_tokens, D_MODEL, requires_grad=True)
    queues, _ = dispatch_dropless(routing)
    leaves = [x_TD, routing.weights_A, experts.in_proj, experts.out_proj]
    num_assignments = len(routing.token_ids_A)

    y_TD = run(x_TD, queues, experts.in_proj, experts.out_proj, experts.activation, torch.float32)
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
        choices_A=torch.zeros(num_tokens * num_experts, dtype=torch.int64),
        top_k=num_experts,
        seq_len=num_tokens,
    )
    leaves = [x_TD, weights_TE, experts.in_proj, experts.out_proj]
    y_TD = experts.forward_all(x_TD, weights_TE)
    expected_TD = weighted_experts(activation, x_TD, everything, experts.in_proj, experts.out_proj)
    for ours, expected in zip(outputs_and_gradients(y_TD, leaves), outputs_and_gradients(expected_TD, leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_stays_close_to_float32(run):
    torch.manual_seed(0)
    experts = Experts(4, 16, 8, "swiglu")
    torch.nn.init.normal_(experts.in_proj, std=0.3)
    torch.nn.init.normal_(experts.out_proj, std=0.3)
    x_TD = torch.randn(32, 16)
    queues, _ = dispatch_dropless(random_routing(32, 4, 64))
    args = (x_TD, queues, experts.in_proj, experts.out_proj, experts.activation)
    exact = run(*args, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = run(*args, compute_dtype(x_TD)).float()
    assert not torch.equal(rounded, exact), "autocast changed nothing: the products were not in bfloat16"
    # bfloat16 keeps 8 bits: each of the two products rounds by up to 2^-8 of the size of its result.
    assert (rounded - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_own_is_each_expert_on_its_own_rows(activation):
    torch.manual_seed(0)
    num_experts, num_rows = 3, 4
    experts = Experts(num_experts, D_MODEL, D_EXPERT, activation)
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    x_END = torch.randn(num_experts, num_rows, D_MODEL, requires_grad=True)
    leaves = [x_END, experts.in_proj, experts.out_proj]
    expected_END = torch.stack(
        [
            torch.stack([expert_output(activation, x_D, experts.in_proj[expert], experts.out_proj[expert]) for x_D in x_END[expert]])
            for expert in range(num_experts)
        ]
    )
    ours_and_expected = (outputs_and_gradients(y_END, leaves) for y_END in (experts.forward_own(x_END), expected_END))
    for ours, expected in zip(*ours_and_expected, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_expanded_gradients_are_taken(run):
    # The gradient of a sum is one number with strides 0, which grouped_mm does not take as it comes.
    torch.manual_seed(0)
    experts = Experts(3, D_MODEL, D_EXPERT, "swiglu")
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    x_TD = torch.randn(6, D_MODEL, requires_grad=True)
    routing = random_routing(6, 3, 12)
    queues, _ = dispatch_dropless(routing)
    leaves = [x_TD, routing.weights_A, experts.in_proj, experts.out_proj]
    y_TD = run(x_TD, queues, experts.in_proj, experts.out_proj, experts.activation, torch.float32)
    expected = torch.autograd.grad(y_TD, leaves, torch.ones_like(y_TD).contiguous(), retain_graph=True)
    of_sum = torch.autograd.grad(y_TD.sum(), leaves, retain_graph=True)
    of_expanded = torch.autograd.grad(y_TD[None].expand(3, -1, -1).sum(), leaves)
    for plain, summed, expanded in zip(expected, of_sum, of_expanded, strict=True):
        torch.testing.assert_close(summed, plain)
        torch.testing.assert_close(expanded, 3 * plain, rtol=1e-4, atol=1e-5)


def some_idle(num_idle: int) -> tuple[Experts, Tensor, ExpertQueues]:
    """Five experts, the last so many of which have no tokens."""
    torch.manual_seed(0)
    experts = Experts(5, D_MODEL, D_EXPERT, "swiglu")
    torch.nn.init.normal_(experts.in_proj)
    torch.nn.init.normal_(experts.out_proj)
    num_assignments = 0 if num_idle == 5 else 12
    routing = random_routing(6, 5, num_assignments)
    busy_ids_A = routing.expert_ids_A % max(1, 5 - num_idle)
    queues, _ = dispatch_dropless(dataclasses.replace(routing, expert_ids_A=busy_ids_A))
    return experts, torch.randn(6, D_MODEL), queues


@pytest.mark.parametrize("num_idle", [1, 4, 5])
def test_experts_without_tokens_get_gradients_of_zeros(num_idle):
    experts, x_TD, queues = some_idle(num_idle)
    experts(x_TD, queues).square().sum().backward()
    for weight in (experts.in_proj, experts.out_proj):
        assert weight.grad is not None
        is_zero_E = (weight.grad == 0).flatten(1).all(dim=1)
        assert is_zero_E.tolist() == [False] * (5 - num_idle) + [True] * num_idle


@pytest.mark.parametrize("grad", [True, False])
def test_the_weights_of_experts_without_tokens_are_not_touched(grad):
    experts, x_TD, queues = some_idle(2)
    expected_TD = experts(x_TD, queues)
    with torch.set_grad_enabled(grad):
        experts.in_proj.data[3:] = experts.out_proj.data[3:] = torch.nan
        assert torch.equal(experts(x_TD, queues), expected_TD)


@pytest.mark.parametrize(("num_assignments", "is_grouped"), [(4, False), (5, True), (12, True)])
def test_fewer_assignments_than_experts_are_never_run_grouped(num_assignments, is_grouped, monkeypatch):
    experts, x_TD, _ = some_idle(1)
    queues, _ = dispatch_dropless(random_routing(6, 5, num_assignments))
    used = []
    monkeypatch.setattr(experts_file, "can_run_grouped", lambda *args: True)
    monkeypatch.setattr(experts_file, "run_grouped", lambda *args: used.append(args) or run_grouped(*args))
    expected_TD = run_blocked(x_TD, queues, experts.in_proj, experts.out_proj, experts.activation, torch.float32)
    torch.testing.assert_close(experts(x_TD, queues), expected_TD)
    assert bool(used) == is_grouped


def test_grouped_products_are_left_to_cuda():
    experts = Experts(2, 16, 16, "swiglu")
    assert not can_run_grouped(torch.zeros(4, 16), experts.in_proj, experts.out_proj)


@pytest.mark.parametrize(
    ("d_model", "d_expert", "activation", "aligned"),
    [
        (16, 8, "swiglu", True),
        (16, 8, "relu", True),
        (7, 8, "swiglu", False),  # 14 bytes a row
        (16, 3, "swiglu", False),
        (16, 4, "swiglu", False),  # the input projection's 8 rows would do, the hidden state's 8 bytes would not
        (12, 8, "relu", False),  # 24 bytes: a multiple of 8, not of 16
    ],
)
def test_grouped_products_want_rows_of_16_bytes(d_model, d_expert, activation, aligned):
    experts = Experts(2, d_model, d_expert, activation)

    def on_cuda(dtype: torch.dtype) -> SimpleNamespace:
        """What `can_run_grouped` asks of its input."""
        return SimpleNamespace(is_cuda=True, dtype=dtype, device=torch.device("cuda"))

    assert can_run_grouped(on_cuda(torch.bfloat16), experts.in_proj, experts.out_proj) == aligned
    assert not can_run_grouped(on_cuda(torch.float32), experts.in_proj, experts.out_proj)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("has_all_choices", [True, False])
def test_cuda_bfloat16_runs_grouped_and_agrees(has_all_choices):
    """With every gradient: bfloat16 keeps 8 bits, and a result is rounded a few times."""
    torch.manual_seed(0)
    experts = Experts(4, 64, 32, "swiglu").cuda()
    torch.nn.init.normal_(experts.in_proj, std=0.3)
    torch.nn.init.normal_(experts.out_proj, std=0.3)
    x_TD = torch.randn(128, 64, device="cuda", requires_grad=True)
    probs_TE = torch.rand(128, 4, device="cuda").softmax(dim=-1)
    weights_TK, expert_ids_TK = probs_TE.topk(2)
    weights_TK = weights_TK.requires_grad_()
    queues, _ = dispatch_dropless(token_choice(probs_TE, probs_TE, expert_ids_TK, weights_TK, seq_len=128))
    if not has_all_choices:
        queues = dataclasses.replace(queues, order_A=None)
    leaves = [x_TD, weights_TK, experts.in_proj, experts.out_proj]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert can_run_grouped(x_TD, experts.in_proj, experts.out_proj)
        y_TD = experts(x_TD, queues)
    exact_TD = run_blocked(x_TD, queues, experts.in_proj, experts.out_proj, experts.activation, torch.float32)
    upstream_TD = torch.randn_like(exact_TD)
    ours = [y_TD, *torch.autograd.grad(y_TD, leaves, upstream_TD.to(y_TD.dtype), retain_graph=True)]
    for ours_, exact in zip(ours, [exact_TD, *torch.autograd.grad(exact_TD, leaves, upstream_TD)], strict=True):
        assert (ours_ - exact).norm() / exact.norm() < 0.02
