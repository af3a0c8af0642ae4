"""Random routing: even, fresh in training, fixed by position in evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.config import LARGEST
from moecli.moe.routers import RandomConfig
from moecli.moe.routers.random import RandomRouter
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
    quick,
)
from tests.moe.routers.test_hash import bound, chi_square, draws_of


def oracle(router: RandomRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    """The k largest of E even draws: in training from the global generator, in evaluation splitmix64 of the position."""
    expected, top_k, num_experts = Expected(), router.config.top_k, router.num_experts
    fresh = torch.rand(len(padding_T), num_experts).tolist() if router.training else None
    for token, is_padding in enumerate(padding_T):
        expected.probs += [torch.tensor(1 / num_experts, dtype=torch.float64)] * num_experts
        draws = draws_of(token % x_BSD.shape[1], num_experts, router.config.seed) if fresh is None else fresh[token]
        if not is_padding:
            for choice, expert in enumerate(largest(draws, top_k)):
                expected.add(token, expert, choice, torch.tensor(1 / top_k, dtype=torch.float64))
    return expected


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_a_large_case_equals_the_oracle(top_k, train):
    case = large_case(top_k)
    router = build(RandomConfig(top_k=top_k, seed=3), 6).train(train)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), seed=st.integers(0, LARGEST), train=st.booleans())
def test_equals_the_oracle(case: Case, seed: int, train: bool):
    router = build(RandomConfig(top_k=case.top_k, seed=seed), case.num_experts).train(train)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


def test_by_hand():
    # The draws of position 0 with 4 experts are those of the id 0 (see the hash router): experts 2, 3, 0, 1 from the largest.
    router = build(RandomConfig(top_k=2), 4).eval()
    routing = router(torch.randn(2, 1, D_MODEL))
    assert entries_of(routing) == [(0, 2, 0), (0, 3, 1), (1, 2, 0), (1, 3, 1)]
    assert routing.weights_A.tolist() == [0.5] * 4


@pytest.mark.parametrize("num_experts", [3, 8])
@pytest.mark.parametrize("train", [True, False])
def test_experts_are_even_and_neighbours_independent(num_experts, train):
    router = build(RandomConfig(top_k=2), num_experts).train(train)
    torch.manual_seed(0)
    experts_TK = router(torch.zeros(1, 20_001, D_MODEL)).expert_ids_A.view(-1, 2)
    assert (experts_TK[:, 0] != experts_TK[:, 1]).all()
    assert chi_square(torch.bincount(experts_TK[:, 0], minlength=num_experts)) < bound(num_experts)
    assert chi_square(torch.bincount(experts_TK[:, 1], minlength=num_experts)) < bound(num_experts)
    neighbours = experts_TK[:-1, 0] * num_experts + experts_TK[1:, 0]
    assert chi_square(torch.bincount(neighbours, minlength=num_experts**2)) < bound(num_experts**2)


def test_training_draws_afresh_and_the_seed_of_the_run_repeats_it():
    router = build(RandomConfig(), 8)
    x_BSD = torch.zeros(2, 500, D_MODEL)
    torch.manual_seed(0)
    first, second = router(x_BSD).expert_ids_A, router(x_BSD).expert_ids_A
    torch.manual_seed(0)
    assert torch.equal(router(x_BSD).expert_ids_A, first)
    # Independent draws agree on one choice out of 8, and so do the two sequences.
    sigma = math.sqrt(1 / 8 * 7 / 8 / 1000)
    assert (first.view(-1, 2)[:, 0] == second.view(-1, 2)[:, 0]).double().mean().item() == pytest.approx(1 / 8, abs=4 * sigma)
    rows = first.view(2, 500, 2)[:, :, 0]
    assert (rows[0] == rows[1]).double().mean().item() == pytest.approx(1 / 8, abs=4 * math.sqrt(2) * sigma)


def test_evaluation_goes_by_position_alone():
    router = build(RandomConfig(top_k=2), 8).eval()
    long = router(torch.randn(3, 20, D_MODEL)).expert_ids_A.view(3, 20, 2)
    short = router(torch.randn(1, 7, D_MODEL)).expert_ids_A.view(1, 7, 2)
    assert torch.equal(long[0], long[1]) and torch.equal(long[0], long[2])
    assert torch.equal(long[:1, :7], short)
    assert len(long[0].unique(dim=0)) > 5
    other = build(RandomConfig(top_k=2, seed=1), 8).eval()(torch.randn(3, 20, D_MODEL)).expert_ids_A.view(3, 20, 2)
    assert not torch.equal(long, other)
