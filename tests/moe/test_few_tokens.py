"""The experts without queues against the double loop, and when queues are needed."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from moecli.moe import few_tokens
from moecli.moe.activations import ACTIVATIONS
from moecli.moe.dispatch import dispatch_dropless
from moecli.moe.experts import Experts
from moecli.moe.few_tokens import run_gathered, run_one_token
from moecli.moe.layers import SparseMoE, SparseMoEConfig
from moecli.moe.routers import ROUTERS
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import Routing, Tokens
from tests.moe.needs import needs_library
from tests.moe.oracle import expert_output, weighted_experts
from tests.operations import Operations

D_MODEL, D_EXPERT = 12, 8


def experts_of(num_experts: int, activation: str = "swiglu") -> Experts:
    experts = Experts(num_experts, D_MODEL, D_EXPERT, activation)
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return experts


def routing_of(num_tokens: int, num_experts: int, top_k: int) -> Routing:
    probs_TE = torch.randn(num_tokens, num_experts).softmax(dim=-1)
    weights_TK, expert_ids_TK = probs_TE.topk(top_k)
    return token_choice(probs_TE, probs_TE, expert_ids_TK, weights_TK, seq_len=num_tokens)


def run(name: str, x_TD: Tensor, routing: Routing, experts: Experts, dtype: torch.dtype) -> Tensor:
    chosen = (routing.expert_ids_A, routing.weights_A, experts.in_proj, experts.out_proj, experts.activation, dtype)
    if name == "one_token":
        return run_one_token(x_TD, *chosen)
    return torch.zeros_like(x_TD).index_add(0, routing.token_ids_A, run_gathered(x_TD[routing.token_ids_A], *chosen))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("runner", "num_tokens", "num_experts", "top_k"),
    [("one_token", 1, 1, 1), ("one_token", 1, 8, 3), ("gathered", 1, 8, 3), ("gathered", 4, 5, 2), ("gathered", 3, 2, 2)],
)
@torch.no_grad()
def test_equals_the_double_loop(runner, num_tokens, num_experts, top_k, activation):
    torch.manual_seed(num_tokens)
    experts, routing, x_TD = (
        experts_of(num_experts, activation),
        routing_of(num_tokens, num_experts, top_k),
        torch.randn(num_tokens, D_MODEL),
    )
    expected_TD = weighted_experts(activation, x_TD, routing, experts.in_proj, experts.out_proj)
    torch.testing.assert_close(run(runner, x_TD, routing, experts, torch.float32), expected_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_c", [pytest.param(True, marks=needs_library), False])
@pytest.mark.parametrize(("num_experts", "expert_ids"), [(8, [5]), (8, [6, 0, 3]), (4, [2, 2]), (4, [3, 1, 3])])
@torch.no_grad()
def test_the_experts_of_a_token_take_their_products_in_one_call_or_one_by_one(num_experts, expert_ids, in_c, request):
    """Also where a token has an expert twice."""
    if not in_c:
        request.getfixturevalue("products_of_torch")
    torch.manual_seed(0)
    experts, x_TD, weights_K = experts_of(num_experts), torch.randn(1, D_MODEL), torch.rand(len(expert_ids))
    projections = (experts.in_proj, experts.out_proj)
    with Operations() as operations:
        y_TD = run_one_token(x_TD, torch.tensor(expert_ids), weights_K, *projections, experts.activation, torch.float32)
    assert operations.names.count("moecli::grouped_product") == 2 * in_c
    each = (
        weight * expert_output("swiglu", x_TD[0], experts.in_proj[expert], experts.out_proj[expert])
        for weight, expert in zip(weights_K, expert_ids, strict=True)
    )
    torch.testing.assert_close(y_TD[0], sum(each), rtol=1e-4, atol=1e-5)


@needs_library
@torch.no_grad()
def test_one_of_very_many_experts_is_taken_by_itself(monkeypatch):
    torch.manual_seed(0)
    experts, x_TD, expert_ids_K = experts_of(6), torch.randn(1, D_MODEL), torch.tensor([4, 1])
    chosen = (expert_ids_K, torch.rand(2), experts.in_proj, experts.out_proj, experts.activation, torch.float32)
    expected_TD = run_one_token(x_TD, *chosen)
    for most, calls in ((3, 2), (2, 0)):
        monkeypatch.setattr(few_tokens, "MOST_EXPERTS_PER_ROW", most)
        with Operations() as operations:
            torch.testing.assert_close(run_one_token(x_TD, *chosen), expected_TD)
        assert operations.names.count("moecli::grouped_product") == calls


@pytest.mark.parametrize("runner", ["one_token", "gathered"])
@torch.no_grad()
def test_bfloat16_autocast_stays_close_to_float32(runner):
    torch.manual_seed(0)
    experts, routing, x_TD = experts_of(4), routing_of(1, 4, 2), torch.randn(1, D_MODEL)
    exact_TD = run(runner, x_TD, routing, experts, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded_TD = run(runner, x_TD, routing, experts, torch.bfloat16)
    assert rounded_TD.dtype == torch.float32 and not torch.equal(rounded_TD, exact_TD), "the products were not in bfloat16"
    # bfloat16 keeps 8 bits: each of the two products rounds by up to 2^-8 of the size of its result.
    assert (rounded_TD - exact_TD).norm() / exact_TD.norm() < 0.02


@torch.no_grad()
def test_experts_that_a_token_did_not_choose_are_not_read():
    torch.manual_seed(0)
    experts, routing, x_TD = experts_of(8), routing_of(1, 8, 2), torch.randn(1, D_MODEL)
    expected_TD = experts.forward_unsorted(x_TD, routing)
    for expert in set(range(8)) - set(routing.expert_ids_A.tolist()):
        experts.in_proj[expert] = experts.out_proj[expert] = torch.nan
    assert torch.equal(experts.forward_unsorted(x_TD, routing), expected_TD)


def test_queues_are_needed_by_gradients_by_several_tokens_by_tokens_that_lost_a_choice_and_by_experts_elsewhere():
    experts, one, two = experts_of(4), routing_of(1, 4, 2), routing_of(2, 4, 2)
    assert experts.needs_queues(one)
    with torch.no_grad():
        assert not experts.needs_queues(one)
        assert experts.needs_queues(two)
        assert experts.needs_queues(dataclasses.replace(one, has_all_choices=False))
        half = SimpleNamespace(in_proj=experts.in_proj[:2], num_experts=4)
        assert Experts.needs_queues(half, one)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # what torch.compile itself does
@pytest.mark.parametrize("has_all_choices", [True, False])
@torch.no_grad()
def test_compiled_they_give_what_their_queues_give(has_all_choices):
    """With and without the promise that each token has two."""
    torch.manual_seed(0)
    experts, x_TD = experts_of(4), torch.randn(3, D_MODEL)
    routing = dataclasses.replace(routing_of(3, 4, 2), has_all_choices=has_all_choices)
    expected_TD = experts(x_TD, dispatch_dropless(routing)[0])

    def call(x_TD: Tensor) -> Tensor:
        assert not experts.needs_queues(routing)
        return experts.forward_unsorted(x_TD, routing)

    torch.testing.assert_close(torch.compile(call, fullgraph=True, backend="eager")(x_TD), expected_TD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_token_alone_gets_the_same_output_and_the_same_record(router, shared):
    """Beside the way of training, through queues."""
    torch.manual_seed(0)
    config = SparseMoEConfig(num_experts=4, d_expert=6, router=ROUTERS[router].config_class(), num_shared_experts=shared)
    layer = SparseMoE(config.with_default_widths(D_MODEL), D_MODEL, "swiglu").eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_BSD, tokens = torch.randn(1, 1, D_MODEL), Tokens(torch.tensor([[5]]))
    expected_BSD, expected = layer(x_BSD, tokens)
    with torch.no_grad():
        y_BSD, record = layer(x_BSD, tokens)
    torch.testing.assert_close(y_BSD, expected_BSD)
    for name in ("chosen_load_E", "load_E", "kept_A", "final_expert_ids_A"):
        assert torch.equal(getattr(record, name), getattr(expected, name)), name
