"""Expert choice against the equations of Zhou et al., with both pools."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig
from moecli.moe.routers.expert_choice import ExpertChoiceRouter
from moecli.moe.routing import Tokens
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
    quick,
    softmax,
)


def oracle(router: ExpertChoiceRouter, x_BSD: Tensor, padding_T: list[bool]) -> Expected:
    expected = Expected()
    batch_size, seq_len, _ = x_BSD.shape
    num_experts = len(router.weight)
    probs = [softmax(logits_of(router.weight, x_D)) for x_D in x_BSD.flatten(0, 1)]
    expected.probs = [prob for of_token in probs for prob in of_token]
    if router.config.pool == "sequence":
        pools = [[row * seq_len + position for position in range(seq_len)] for row in range(batch_size)]
    else:
        pools = [[row * seq_len + position for row in range(batch_size)] for position in range(seq_len)]
    for pool in pools:
        # k = n * c / e with the padding counted in n; padding itself is never taken.
        room = math.ceil(len(pool) * router.config.experts_per_token / num_experts)
        candidates = [token for token in pool if not padding_T[token]]
        for expert in range(num_experts):
            for index in largest([probs[token][expert] for token in candidates], room):
                expected.add(candidates[index], expert, 0, probs[candidates[index]][expert])
    return expected


@pytest.mark.parametrize("pool", ["sequence", "batch"])
@pytest.mark.parametrize("experts_per_token", [0.5, 1.0, 1.5, 2.0, 4.0, 6.0])
def test_a_large_case_equals_the_oracle(experts_per_token, pool):
    case = large_case(2)
    router = build(ExpertChoiceConfig(experts_per_token=experts_per_token, pool=pool), 6)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


# One expert gives every token the probability 1, and no equation says whom it then takes.
@quick
@given(
    case=cases(fewest_experts=2),
    pool=st.sampled_from(["sequence", "batch"]),
    experts_per_token=st.sampled_from([0.5, 1.0, 1.5, 2.0, 6.0]),
)
def test_equals_the_oracle_with_every_gradient(case: Case, pool: str, experts_per_token: float):
    config = ExpertChoiceConfig(experts_per_token=min(experts_per_token, float(case.num_experts)), pool=pool)
    router = build(config, case.num_experts, case.seed)
    assert_equals_oracle(router, oracle, case.x_BSD, case.tokens, case.seed)


def probs_router(config: ExpertChoiceConfig) -> ExpertChoiceRouter:
    """A router of two experts, whose probability for expert 0 is sigmoid(x)."""
    router = ExpertChoiceRouter(config, d_model=1, num_experts=2)
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0], [0.0]]))
    return router


# Probabilities of expert 0 for four tokens in two sequences; those of expert 1 are the rest.
BY_HAND_BS = [[0.9, 0.6], [0.2, 0.7]]


@pytest.mark.parametrize(
    ("pool", "entries", "weights"),
    [
        # Each expert takes 1 * 2 / 2 = 1 of the 2 tokens of a sequence. Sequence 0 (tokens 0, 1): expert 0 has 0.9 and 0.6: token 0;
        # expert 1 has 0.1 and 0.4: token 1. Sequence 1 (tokens 2, 3): 0.2 and 0.7: token 3; 0.8 and 0.3: token 2.
        ("sequence", [(0, 0), (1, 1), (3, 0), (2, 1)], [0.9, 0.4, 0.7, 0.8]),
        # Position 0 (tokens 0, 2): expert 0 has 0.9 and 0.2: token 0; expert 1 has 0.1 and 0.8: token 2.
        # Position 1 (tokens 1, 3): 0.6 and 0.7: token 3; 0.4 and 0.3: token 1.
        ("batch", [(0, 0), (2, 1), (3, 0), (1, 1)], [0.9, 0.8, 0.7, 0.4]),
    ],
)
def test_both_pools_by_hand(pool, entries, weights):
    router = probs_router(ExpertChoiceConfig(experts_per_token=1.0, pool=pool))
    routing = router(torch.tensor(BY_HAND_BS).logit()[:, :, None])
    assert [(token, expert) for token, expert, _ in entries_of(routing)] == entries
    torch.testing.assert_close(routing.weights_A, torch.tensor(weights))
    assert not routing.choices_A.any()


@pytest.mark.parametrize(
    ("experts_per_token", "pool_size", "num_experts", "taken"),
    [
        (2.0, 16, 8, 4),  # 2 * 16 / 8 = 4
        (2.0, 5, 4, 3),  # 10 / 4 = 2.5, up to 3
        (1.0, 1, 8, 1),  # 1 / 8, up to 1
        (1.1, 10, 11, 1),  # 1.1 * 10 = 11.000000000000002 in floating point, which is 11 / 11 = 1 and not 2
        (0.3, 10, 1, 3),  # 3
        (8.0, 6, 8, 6),  # all
        (1e-10, 16, 8, 1),  # 2e-10, up to 1: never none at all
    ],
)
def test_how_many_tokens_an_expert_takes(experts_per_token, pool_size, num_experts, taken):
    assert ExpertChoiceConfig(experts_per_token=experts_per_token).tokens_per_expert(pool_size, num_experts) == taken
    router = build(ExpertChoiceConfig(experts_per_token=experts_per_token), num_experts)
    routing = router(torch.randn(2, pool_size, D_MODEL))
    # Each expert takes as many from each of the two sequences.
    load = torch.bincount(routing.token_ids_A // pool_size * num_experts + routing.expert_ids_A, minlength=2 * num_experts)
    assert load.tolist() == [taken] * (2 * num_experts)


@pytest.mark.parametrize("pool", ["sequence", "batch"])
def test_as_many_experts_per_token_as_there_are_is_the_dense_moe(pool):
    router = build(ExpertChoiceConfig(experts_per_token=4.0, pool=pool), 4)
    routing = router(torch.randn(3, 5, D_MODEL, generator=torch.Generator().manual_seed(0)))
    weights_TE = torch.zeros(15, 4).index_put((routing.token_ids_A, routing.expert_ids_A), routing.weights_A, accumulate=True)
    assert torch.equal(weights_TE, routing.probs_TE)
    assert len(routing.weights_A) == 60


def test_one_sequence_in_the_batch_pool_gives_each_token_to_every_expert():
    # Pools of one token: each expert takes ceil(2 * 1 / 4) = 1, the only one there is.
    router = build(ExpertChoiceConfig(pool="batch"), 4)
    routing = router(torch.randn(1, 3, D_MODEL, generator=torch.Generator().manual_seed(0)))
    assert entries_of(routing) == [(token, expert, 0) for token in range(3) for expert in range(4)]
    assert torch.equal(routing.weights_A, routing.probs_TE.flatten())


def test_equal_pools_whichever_way_the_batch_lies():
    # A batch of columns is a batch of rows turned round: position pools of x are sequence pools of its transpose.
    by_row, by_position = build(ExpertChoiceConfig(), 4), build(ExpertChoiceConfig(pool="batch"), 4)
    x_BSD = torch.randn(3, 5, D_MODEL, generator=torch.Generator().manual_seed(0))
    of_positions, of_rows = by_position(x_BSD), by_row(x_BSD.transpose(0, 1))
    # Token (row b, position s) has the number 5 b + s here and 3 s + b there.
    assert [(token // 5, token % 5) for token in of_positions.token_ids_A.tolist()] == [
        (token % 3, token // 3) for token in of_rows.token_ids_A.tolist()
    ]
    torch.testing.assert_close(of_positions.weights_A, of_rows.weights_A)


def test_a_pool_of_nothing_but_padding_gives_nothing():
    router = build(ExpertChoiceConfig(), 4)
    is_padding_BS = torch.tensor([[False] * 4, [True] * 4])
    routing = router(torch.randn(2, 4, D_MODEL), Tokens(torch.zeros(2, 4, dtype=torch.int64), is_padding_BS))
    assert len(routing.token_ids_A) == 2 * 4
    assert routing.token_ids_A.max() < 4


def test_more_experts_per_token_than_experts_are_refused():
    with pytest.raises(ValueError, match="more experts per token than there are experts"):
        SparseMoEConfig(num_experts=4, router=ExpertChoiceConfig(experts_per_token=4.5))
    assert SparseMoEConfig(num_experts=4, router=ExpertChoiceConfig(experts_per_token=4.0)).problems() == []
