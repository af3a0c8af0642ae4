"""Hash routing: fixed by the token's id, even over many ids, and another hash with another seed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.config import LARGEST
from moecli.moe.routers import HashConfig
from moecli.moe.routers.hash import HashRouter, mixed_bits
from moecli.moe.routing import Routing, Tokens
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

BITS = 2**64 - 1


def splitmix64(number: int) -> int:
    """The number-th output of the generator with seed 0, from its published definition, in whole numbers without sign."""
    state = number * 0x9E3779B97F4A7C15 & BITS
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & BITS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & BITS
    return state ^ (state >> 31)


def signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


def draws_of(key: int, num_experts: int, seed: int) -> list[int]:
    return [signed(splitmix64(key * num_experts + expert + seed * 2**32)) for expert in range(num_experts)]


def oracle_of(case: Case):
    def oracle(router: HashRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
        expected = Expected()
        for token, key in enumerate(case.tokens.ids_BS.flatten().tolist()):
            expected.probs += [torch.tensor(1 / case.num_experts, dtype=torch.float64)] * case.num_experts
            if not padding_T[token]:
                for choice, expert in enumerate(largest(draws_of(key, case.num_experts, router.config.seed), case.top_k)):
                    expected.add(token, expert, choice, torch.tensor(1 / case.top_k, dtype=torch.float64))
        return expected

    return oracle


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_a_large_case_equals_the_oracle(top_k, train):
    case = large_case(top_k)
    router = build(HashConfig(top_k=top_k, seed=3), 6).train(train)
    assert_equals_oracle(router, oracle_of(case), case.x_BSD, case.tokens, case.seed)


@quick
@given(case=cases(), seed=st.integers(0, LARGEST), train=st.booleans())
def test_equals_the_oracle(case: Case, seed: int, train: bool):
    router = build(HashConfig(top_k=case.top_k, seed=seed), case.num_experts).train(train)
    assert_equals_oracle(router, oracle_of(case), case.x_BSD, case.tokens)


def test_draws_by_hand():
    # Key 0 of 4 experts with seed 0: the numbers 0 to 3. The first outputs of splitmix64 with seed 0 are published:
    # e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f. Output 0 is the mix of 0, which is 0.
    published = [0, 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mixed_bits(torch.tensor([0]), 4, 0).tolist() == [[signed(number) for number in published]]
    # Signed, e2.. is negative, so the order is 6e.., 06.., 0, e2..: experts 2, 3, 0, 1.
    tokens = Tokens(torch.tensor([[0]]))
    routing = HashRouter(HashConfig(top_k=4), D_MODEL, 4)(torch.zeros(1, 1, D_MODEL), tokens)
    assert routing.expert_ids_A.tolist() == [2, 3, 0, 1]
    assert routing.weights_A.tolist() == [0.25] * 4


def route(ids: Tensor, num_experts: int = 8, **options: int) -> Routing:
    return build(HashConfig(**options), num_experts)(torch.zeros(*ids.shape, D_MODEL), Tokens(ids))


def test_an_id_always_has_the_same_experts_wherever_it_stands():
    ids = torch.tensor([[7, 8, 7, 9], [9, 7, 7, 8]])
    experts = route(ids, top_k=2).expert_ids_A.view(2, 4, 2)
    for key in (7, 8, 9):
        assert len(experts[ids == key].unique(dim=0)) == 1
    # Two layers with features of their own agree, and so does a router that is in evaluation.
    first, second = build(HashConfig(top_k=2), 8, seed=1), build(HashConfig(top_k=2), 8, seed=2).eval()
    x_BSD = torch.randn(2, 4, D_MODEL, generator=torch.Generator().manual_seed(0))
    assert entries_of(first(x_BSD, Tokens(ids))) == entries_of(second(2 * x_BSD, Tokens(ids))) == entries_of(route(ids, top_k=2))


def chi_square(counts: Tensor) -> float:
    expected = counts.sum().item() / counts.numel()
    return ((counts - expected).square() / expected).sum().item()


def bound(cells: int) -> float:
    """Of chi square with cells - 1 degrees of freedom: mean n, variance 2 n; six deviations."""
    return cells - 1 + 6 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("seed", [0, 1, LARGEST])
@pytest.mark.parametrize("num_experts", [3, 8, 64])
def test_experts_and_pairs_of_experts_are_even_over_many_ids(seed, num_experts):
    experts_TK = route(torch.arange(20_000)[None], num_experts, top_k=2, seed=seed).expert_ids_A.view(-1, 2)
    assert (experts_TK[:, 0] != experts_TK[:, 1]).all()
    for choice in (0, 1):
        assert chi_square(torch.bincount(experts_TK[:, choice], minlength=num_experts)) < bound(num_experts)
    pairs = torch.bincount(experts_TK[:, 0] * num_experts + experts_TK[:, 1], minlength=num_experts**2)
    is_pair = ~torch.eye(num_experts, dtype=torch.bool).flatten()
    assert chi_square(pairs[is_pair]) < bound(int(is_pair.sum()))


def test_another_seed_is_another_hash():
    ids = torch.arange(20_000)[None]
    first, second = route(ids, seed=0).expert_ids_A, route(ids, seed=1).expert_ids_A
    # Independent hashes agree on one id out of 8.
    assert (first == second).double().mean().item() == pytest.approx(1 / 8, abs=4 * math.sqrt(1 / 8 * 7 / 8 / 20_000))


def test_it_needs_the_ids():
    with pytest.raises(AssertionError, match="goes by token ids"):
        build(HashConfig(), 4)(torch.zeros(1, 1, D_MODEL))
