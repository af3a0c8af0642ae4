"""Noisy top-k against the equations of Shazeer et al., and its load estimate against redrawn noise."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.routers import NoisyTopKConfig, TopKConfig
from moecli.moe.routers.noisy_topk import NoisyTopKRouter, prob_in_top_k
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


def oracle(router: NoisyTopKRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    """Eq. 3-5 and 8-9, with 0.01 added to the spread."""
    top_k, expected = router.config.top_k, Expected()
    x_TD = x_BSD.flatten(0, 1)
    num_tokens, num_experts = len(x_TD), len(router.weight)
    noise_TE = torch.randn(num_tokens, num_experts) if router.training else None
    for token, x_D in enumerate(x_TD):
        clean = logits_of(router.weight, x_D)
        expected.probs += softmax(clean)
        noisy, stds = clean, []
        if noise_TE is not None:
            stds = [torch.log(1 + torch.exp(raw)) + 0.01 for raw in logits_of(router.noise_weight, x_D)]
            noisy = [clean[e] + noise_TE[token, e].double() * stds[e] for e in range(num_experts)]
        chosen = largest(noisy, top_k)
        weights = softmax([noisy[expert] for expert in chosen])
        if not padding_T[token]:
            for choice, expert in enumerate(chosen):
                expected.add(token, expert, choice, weights[choice])
        if noise_TE is not None and top_k < num_experts:
            for expert in range(num_experts):
                others = [noisy[other] for other in range(num_experts) if other != expert]
                kth_excluding = others[largest(others, top_k)[-1]]
                expected.smooth_load.append(normal_cdf((clean[expert] - kth_excluding) / stds[expert]))
    return expected


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 5, 6])
def test_a_large_case_equals_the_oracle(top_k, train):
    case = large_case(top_k)
    assert_equals_oracle(build(NoisyTopKConfig(top_k=top_k), 6).train(train), oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), train=st.booleans())
def test_equals_the_oracle_with_every_gradient(case: Case, train: bool):
    router = build(NoisyTopKConfig(top_k=case.top_k), case.num_experts, case.seed).train(train)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


@pytest.mark.parametrize(
    ("top_k", "expected"),
    [
        # Noisy logits 3, 1, 0.5. The best of the others is 1 for expert 0 and 3 for experts 1 and 2:
        # Phi((2 - 1) / 1) = Phi(1), Phi((1 - 3) / 2) = Phi(-1), Phi((0 - 3) / 1.5) = Phi(-2).
        (1, [0.841345, 0.158655, 0.022750]),
        # The second best of the others is 0.5 for experts 0 and 1, and 1 for expert 2:
        # Phi((2 - 0.5) / 1) = Phi(1.5), Phi((1 - 0.5) / 2) = Phi(0.25), Phi((0 - 1) / 1.5) = Phi(-0.6667).
        (2, [0.933193, 0.598706, 0.252493]),
    ],
)
def test_prob_in_top_k_by_hand(top_k, expected):
    clean, noisy, std = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.5]]), torch.tensor([[1.0, 2.0, 1.5]])
    torch.testing.assert_close(prob_in_top_k(clean, noisy, std, top_k), torch.tensor([expected]), rtol=1e-5, atol=1e-6)


def test_the_first_step_by_hand():
    # Both matrices begin at zero: no signal, and noise of deviation softplus(0) + 0.01 = ln 2 + 0.01 = 0.7031.
    router = build(NoisyTopKConfig(top_k=2), 4)
    router.init_weights(torch.Generator())
    assert not router.weight.any() and not router.noise_weight.any()
    torch.manual_seed(0)
    routing = router(torch.randn(1, 3, D_MODEL))
    torch.manual_seed(0)
    torch.randn(1, 3, D_MODEL)
    noisy_TE = 0.703147 * torch.randn(3, 4)
    expected = noisy_TE.topk(2)
    assert torch.equal(routing.expert_ids_A.view(3, 2), expected.indices)
    # Two weights from a softmax over two logits a > b: 1 / (1 + e^(b - a)) and the rest.
    first_T = 1 / (1 + torch.exp(expected.values[:, 1] - expected.values[:, 0]))
    torch.testing.assert_close(routing.weights_A.view(3, 2), torch.stack([first_T, 1 - first_T], dim=1))


@pytest.mark.parametrize("top_k", [2, 3, 4])
def test_without_noise_it_is_normalised_top_k(top_k):
    noisy, plain = build(NoisyTopKConfig(top_k=top_k), 4).eval(), build(TopKConfig(top_k=top_k, normalize_weights=True), 4).eval()
    with torch.no_grad():
        plain.weight.copy_(noisy.weight)
    x_BSD = torch.randn(2, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    ours, theirs = noisy(x_BSD), plain(x_BSD)
    assert ours.smooth_load_TE is None
    assert entries_of(ours) == entries_of(theirs)
    torch.testing.assert_close(ours.weights_A, theirs.weights_A)
    torch.testing.assert_close(ours.probs_TE, theirs.probs_TE)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_the_load_is_how_often_fresh_noise_would_choose_the_expert(top_k):
    num_tokens, num_experts, draws = 4, 5, 20_000
    router = build(NoisyTopKConfig(top_k=top_k), num_experts)
    x_BSD = torch.randn(1, num_tokens, D_MODEL, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    with torch.no_grad():
        load_TE = router(x_BSD).smooth_load_TE
        clean_TE = x_BSD[0] @ router.weight.T
        std_TE = F.softplus(x_BSD[0] @ router.noise_weight.T) + 0.01
    torch.manual_seed(7)
    noisy_TE = clean_TE + torch.randn(num_tokens, num_experts) * std_TE
    generator = torch.Generator().manual_seed(2)
    tested = 0
    for token in range(num_tokens):
        for expert in range(num_experts):
            # Only this expert's noise is drawn again; it is chosen if fewer than k of the others are above it.
            redrawn = clean_TE[token, expert] + torch.randn(draws, generator=generator) * std_TE[token, expert]
            others = torch.cat([noisy_TE[token, :expert], noisy_TE[token, expert + 1 :]])
            frequency = ((others > redrawn[:, None]).sum(dim=1) < top_k).double().mean().item()
            chance = load_TE[token, expert].item()
            assert frequency == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / draws) + 1 / draws), (token, expert)
            tested += 0.02 < chance < 0.98
    assert tested >= 5, "most chances are 0 or 1, which proves little"


def test_the_load_is_estimated_where_the_config_says_so():
    x_BSD = torch.randn(1, 3, D_MODEL)
    for top_k in (1, 3, 4):
        config = NoisyTopKConfig(top_k=top_k)
        assert (build(config, 4)(x_BSD).smooth_load_TE is not None) == config.estimates_load(4) == (top_k < 4)


def test_equal_logits_give_a_chance_for_each():
    # With the noise of experts 1 and 2 equal, k-th and (k+1)-th are the same number: leaving either out leaves the other.
    clean, noisy = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 1.0]])
    # Expert 0: second best of (1, 1) is 1; experts 1 and 2: second best of (2, 1) is 1. All Phi(-1) = 0.158655.
    load_TE = prob_in_top_k(clean, noisy, torch.ones(1, 3), top_k=2)
    torch.testing.assert_close(load_TE, torch.full((1, 3), 0.158655), rtol=1e-5, atol=1e-6)
