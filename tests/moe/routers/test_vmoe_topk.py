"""The router of V-MoE against its equation, and its load estimate against redrawn noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.routers import TopKConfig, VMoETopKConfig
from moecli.moe.routers.vmoe_topk import VMoETopKRouter
from tests.moe.routers.against_oracle import (
    D_MODEL,
    Case,
    Expected,
    assert_equals_oracle,
    build,
    cases,
    entries_of,
    large_case,
    largest,
    logits_of,
    normal_cdf,
    quick,
    softmax,
)


def oracle(router: VMoETopKRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    top_k, expected = router.config.top_k, Expected()
    x_TD = x_BSD.flatten(0, 1)
    num_tokens, num_experts = len(x_TD), len(router.weight)
    sigma = router.config.noise_std / num_experts
    noise_TE = torch.randn(num_tokens, num_experts) if router.training and sigma > 0 else None
    for token, x_D in enumerate(x_TD):
        clean = logits_of(router.weight, x_D)
        expected.probs += softmax(clean)
        noisy = clean if noise_TE is None else [clean[e] + noise_TE[token, e].double() * sigma for e in range(num_experts)]
        gates = softmax(noisy)
        chosen = largest(noisy, top_k)
        if not padding_T[token]:
            for choice, expert in enumerate(chosen):
                expected.add(token, expert, choice, gates[expert])
        if noise_TE is not None:
            threshold = noisy[chosen[-1]]
            expected.smooth_load += [1 - normal_cdf((threshold - clean[expert]) / sigma) for expert in range(num_experts)]
    return expected


@pytest.mark.parametrize("noise_std", [0.5, 1.0, 6.0])
@pytest.mark.parametrize("top_k", [1, 2, 5, 6])
def test_a_large_case_equals_the_oracle(top_k, noise_std):
    case = large_case(top_k)
    router = build(VMoETopKConfig(top_k=top_k, noise_std=noise_std), 6)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), noise_std=st.sampled_from([0.0, 0.5, 1.0, 4.0]), train=st.booleans())
def test_equals_the_oracle_with_every_gradient(case: Case, noise_std: float, train: bool):
    router = build(VMoETopKConfig(top_k=case.top_k, noise_std=noise_std), case.num_experts, case.seed).train(train)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


def test_load_by_hand(monkeypatch):
    # E = 4, noise_std 2: deviation 2 / 4 = 0.5. Clean logits 2, 1, 0, -1; the draw 2.001 for expert 1 lifts it to 1 + 2.001 * 0.5 = 2.0005.
    # So the best is expert 1, and the threshold 2.0005:
    # Phi((2 - 2.0005) / 0.5) = Phi(-0.001) = 0.49960, Phi(-2.001) = 0.02270, Phi(-4.001) = 3.15e-5, Phi(-6.001) = 1e-9.
    monkeypatch.setattr(torch, "randn_like", lambda like: torch.tensor([[0.0, 2.001, 0.0, 0.0]]))
    router = VMoETopKRouter(VMoETopKConfig(top_k=1, noise_std=2.0), d_model=1, num_experts=4)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[2.0], [1.0], [0.0], [-1.0]]))
    routing = router(torch.ones(1, 1, 1))
    assert routing.expert_ids_A.tolist() == [1]
    torch.testing.assert_close(routing.smooth_load_TE, torch.tensor([[0.49960, 0.02270, 3.15e-5, 0.0]]), rtol=1e-3, atol=1e-6)
    # Its weight is the noisy softmax: e^2.0005 / (e^2 + e^2.0005 + e^0 + e^-1) = 7.39275 / 16.14969 = 0.45776.
    torch.testing.assert_close(routing.weights_A, torch.tensor([0.45776]), rtol=1e-4, atol=1e-5)
    # The probabilities have no noise in them: e^2 / (e^2 + e^1 + e^0 + e^-1) = 7.38906 / 11.47522 = 0.64391.
    assert routing.probs_TE[0, 0].item() == pytest.approx(0.64391, abs=1e-5)


@pytest.mark.parametrize(("noise_std", "train"), [(0.0, True), (1.0, False)])
@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_without_noise_it_is_top_k_as_it_is(noise_std, train, top_k):
    ours = build(VMoETopKConfig(top_k=top_k, noise_std=noise_std), 4).train(train)
    plain = build(TopKConfig(top_k=top_k, normalize_weights=False), 4)
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    routing, expected = ours(x_BSD), plain(x_BSD)
    assert routing.smooth_load_TE is None
    assert entries_of(routing) == entries_of(expected)
    assert torch.equal(routing.weights_A, expected.weights_A)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_load_is_how_often_fresh_noise_would_pass_the_threshold(top_k):
    num_tokens, num_experts, draws, noise_std = 4, 5, 20_000, 5.0
    router = build(VMoETopKConfig(top_k=top_k, noise_std=noise_std), num_experts)
    x_BSD = torch.randn(1, num_tokens, D_MODEL, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    with torch.no_grad():
        routing = router(x_BSD)
        clean_TE = x_BSD[0] @ router.weight.T
    torch.manual_seed(7)
    noisy_TE = clean_TE + torch.randn(num_tokens, num_experts) * (noise_std / num_experts)
    generator = torch.Generator().manual_seed(2)
    tested = 0
    for token in range(num_tokens):
        threshold = noisy_TE[token].sort(descending=True).values[top_k - 1]
        for expert in range(num_experts):
            redrawn = clean_TE[token, expert] + torch.randn(draws, generator=generator) * (noise_std / num_experts)
            chance = routing.smooth_load_TE[token, expert].item()
            bound = 4 * math.sqrt(chance * (1 - chance) / draws) + 1 / draws
            assert (redrawn > threshold).double().mean().item() == pytest.approx(chance, abs=bound), (token, expert)
            if noisy_TE[token, expert] < threshold:
                # For an expert that was not chosen the threshold is among the others: this is how often it would be chosen.
                others = torch.cat([noisy_TE[token, :expert], noisy_TE[token, expert + 1 :]])
                frequency = ((others > redrawn[:, None]).sum(dim=1) < top_k).double().mean().item()
                assert frequency == pytest.approx(chance, abs=bound), (token, expert)
                tested += 0.02 < chance < 0.98
    assert tested >= 3, "most chances are 0 or 1, which proves little"


def test_the_noise_is_as_wide_as_noise_std_over_the_number_of_experts():
    # With E = 2 and no signal the first weight is sigmoid(|eps_0 - eps_1|), and eps_0 - eps_1 is normal with deviation sqrt(2) * std / 2.
    router = build(VMoETopKConfig(top_k=1, noise_std=3.0), 2)
    torch.nn.init.zeros_(router.weight)
    torch.manual_seed(0)
    weights_A = router(torch.ones(1, 20_000, D_MODEL)).weights_A.detach()
    # sqrt(2) * 3 / 2 = 2.1213; the relative error of a deviation from n draws is 1 / sqrt(2 n).
    assert weights_A.logit().square().mean().sqrt().item() == pytest.approx(2.1213, rel=4 / math.sqrt(40_000))
