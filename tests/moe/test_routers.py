"""What every router owes the contract, and top-k by hand."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from moecli.moe.routers import ROUTERS, TopKConfig, TopKRouter

D_MODEL, NUM_EXPERTS = 6, 4


def build(kind: str):
    router = ROUTERS[kind](ROUTERS[kind].config_class(), D_MODEL, NUM_EXPERTS)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    return router


@pytest.mark.parametrize("kind", ROUTERS)
def test_routing_keeps_the_contract(kind):
    router = build(kind)
    routing = router(torch.randn(3, 5, D_MODEL))
    assert routing.logits_TE.shape == routing.probs_TE.shape == (15, NUM_EXPERTS)
    assert routing.logits_TE.dtype == routing.probs_TE.dtype == routing.weights_A.dtype == torch.float32
    assert routing.token_ids_A.dtype == routing.expert_ids_A.dtype == torch.int64
    assert len(routing.token_ids_A) == len(routing.expert_ids_A) == len(routing.weights_A) == 15 * router.assignments_per_token
    pairs = set(zip(routing.token_ids_A.tolist(), routing.expert_ids_A.tolist(), strict=True))
    assert len(pairs) == len(routing.token_ids_A), "a token has the same expert twice"
    assert (routing.weights_A >= 0).all()


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_router_computes_in_float32_under_autocast(kind):
    router = build(kind)
    x_BSD = torch.randn(2, 4, D_MODEL)
    exact = router(x_BSD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = router(x_BSD)
    assert torch.equal(under_autocast.logits_TE, exact.logits_TE)


@pytest.mark.parametrize("kind", ROUTERS)
def test_the_weights_teach_the_router(kind):
    router = build(kind)
    routing = router(torch.randn(2, 4, D_MODEL))
    (routing.weights_A * torch.arange(1.0, len(routing.weights_A) + 1)).sum().backward()
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("normalize_weights", "weights"), [(False, [4 / 8, 3 / 8]), (True, [4 / 7, 3 / 7])])
def test_top_2_by_hand(normalize_weights, weights):
    # Logits ln(4), ln(1), ln(3): probabilities 4/8, 1/8, 3/8; the two best are experts 0 and 2.
    router = TopKRouter(TopKConfig(top_k=2, normalize_weights=normalize_weights), d_model=1, num_experts=3)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[4.0], [1.0], [3.0]]).log())
    routing = router(torch.ones(1, 1, 1))
    assert routing.expert_ids_A.tolist() == [0, 2]
    torch.testing.assert_close(routing.weights_A, torch.tensor(weights))
    torch.testing.assert_close(routing.probs_TE, torch.tensor([[4 / 8, 1 / 8, 3 / 8]]))


def test_top_1_is_not_normalised_unless_it_would_teach_nothing():
    assert TopKConfig(top_k=1).normalize_weights is False
    assert TopKConfig(top_k=2).normalize_weights is True
    with pytest.raises(ValidationError, match="would learn nothing"):
        TopKConfig(top_k=1, normalize_weights=True)
