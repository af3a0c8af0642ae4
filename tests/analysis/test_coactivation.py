"""Co-activation by hand, against loops, and its chance level against all routings with the same margins."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from itertools import combinations, islice, product

import numpy as np
import pytest
from hypothesis import given, settings

from moecli.analysis.coactivation import MOST_TOKENS, coactivation, random_routings
from tests.analysis.samples import random_routing, sample_of, samples


def routings_with_margins(sizes: list[int], load: list[int]) -> set[tuple[tuple[int, ...], ...]]:
    """All ways to give token n sizes[n] experts, each expert load[e] tokens."""
    choices = [list(combinations(range(len(load)), size)) for size in sizes]
    return {routing for routing in product(*choices) if [sum(e in experts for experts in routing) for e in range(len(load))] == load}


def test_shares_by_hand():
    # Expert 0 ran for tokens 0, 1 and 2, of which expert 1 ran for two and expert 2 for one. Expert 1 ran for tokens 0, 1 and 3.
    # Expert 2 ran for token 2 alone, expert 3 for none.
    (layer,) = coactivation(sample_of({4: [[0, 1], [1, 0], [0, 2], [1, -1]]}, 4))
    assert (layer.layer, layer.tokens) == (4, 4)
    assert layer.share == [[None, 2 / 3, 1 / 3, 0], [2 / 3, None, 0, 0], [1, 0, None, 0], [None] * 4]
    assert layer.chance[3] == [None] * 4
    assert layer.chance[0][0] is None
    json.dumps(asdict(layer))


@settings(max_examples=25, deadline=None)
@given(samples(most_layers=2))
def test_shares_are_those_of_a_loop(sample):
    found = {layer.layer: layer for layer in coactivation(sample)}
    for number, experts_NK in sample.experts.items():
        tokens = [set(experts) - {-1} for experts in experts_NK.tolist()]
        assert (number in found) == any(len(experts) > 1 for experts in tokens)
        if number in found:
            for one, other in product(range(sample.num_experts[number]), repeat=2):
                of = [experts for experts in tokens if one in experts]
                share = sum(other in experts for experts in of) / len(of) if of and one != other else None
                assert found[number].share[one][other] == share


def test_random_routings_are_drawn_evenly_from_all_with_the_same_margins():
    tokens = [[0, 1, -1], [1, 2, -1], [3, -1, -1], [0, 1, 3]]
    sizes, load = [2, 2, 1, 3], [2, 3, 1, 2]
    expected = routings_with_margins(sizes, load)
    # Tokens come out of a trade in another order, so that a routing is known but for its order.
    kinds = Counter(tuple(sorted(routing)) for routing in expected)
    num_draws = 4000
    slots = islice(random_routings(np.array(tokens) + 1, np.random.default_rng(0)), num_draws)
    drawn = Counter(tuple(sorted(tuple(sorted(slot - 1 for slot in token if slot)) for token in slots_NK.tolist())) for slots_NK in slots)
    assert len(kinds) > 10
    assert drawn.keys() == kinds.keys()
    chi_square = sum(
        (drawn[kind] - num_draws * ways / len(expected)) ** 2 / (num_draws * ways / len(expected)) for kind, ways in kinds.items()
    )
    # It has a mean of its degrees of freedom and a variance of twice that. Draws that follow each other are a little alike.
    freedom = len(kinds) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


@settings(max_examples=50, deadline=None)
@given(samples(most_layers=1))
def test_random_routings_keep_both_margins(sample):
    slots_NK = sample.experts[0].astype(np.int64) + 1
    after_NK = next(random_routings(slots_NK, np.random.default_rng(0)))
    assert np.array_equal(np.bincount(after_NK.ravel(), minlength=6), np.bincount(slots_NK.ravel(), minlength=6))
    assert sorted((after_NK > 0).sum(axis=1)) == sorted((slots_NK > 0).sum(axis=1))
    for token in after_NK.tolist():
        assert max(Counter(slot for slot in token if slot).values(), default=1) == 1


def test_chance_is_the_mean_over_all_routings_with_the_same_margins():
    tokens = [[0, 1], [0, 1], [0, 2], [0, 3], [2, 3]]
    routings = routings_with_margins([2] * 5, [4, 2, 2, 2])
    (layer,) = coactivation(sample_of({0: tokens}, 4))
    for one, other in combinations(range(4), 2):
        mean = np.mean([sum(one in experts and other in experts for experts in routing) for routing in routings])
        assert layer.chance[one][other] == pytest.approx(mean / [4, 2, 2, 2][one], abs=0.06)


def test_chance_of_an_even_load_however_far_from_it_the_routing_is():
    # Half of the tokens go to experts 0 and 1, half to 2 and 3. At random the other expert is one of three: (k - 1) / (E - 1) = 1/3.
    (layer,) = coactivation(sample_of({0: [[0, 1], [2, 3]] * 1500}, 4))
    assert layer.share[0] == [None, 1, 0, 0]
    assert layer.chance[0][1:] == pytest.approx([1 / 3] * 3, abs=0.01)
    assert layer.special == [[0, 1, -1, -1], [1, 0, -1, -1], [-1, -1, 0, 1], [-1, -1, 1, 0]]


def test_the_first_random_routing_has_forgotten_the_text():
    # As above: of 3,000 tokens 1,500 went to experts 0 and 1, and 500 are due; the deviation is about 20.
    routing_NK = next(random_routings(np.array([[1, 2], [3, 4]] * 1500), np.random.default_rng(0)))
    assert (np.sort(routing_NK, axis=1) == [1, 2]).all(axis=1).sum() == pytest.approx(500, abs=80)


@pytest.mark.parametrize("load", [[1] * 8, [64, 32, 16, 8, 4, 2, 1, 1]], ids=["even", "uneven"])
def test_random_routing_is_special_in_one_seed_of_twenty(load):
    # Each of the 28 pairs tested for itself at 5 % would make that three seeds of four.
    special = 0
    for seed in range(30):
        experts_NK = random_routing(np.random.default_rng(seed), 400, load, 2)
        (layer,) = coactivation(sample_of({0: experts_NK}, 8), seed)
        special += bool(np.any(layer.special))
    # More than 5 of 30 has a probability of 0.3 %.
    assert special <= 5


def test_a_planted_pair_is_found_and_so_is_one_that_never_meets():
    experts_NK = random_routing(np.random.default_rng(0), 3000, [8, 7, 6, 5, 4, 3, 2, 1], 2)
    experts_NK[::20] = [5, 6]
    never = (experts_NK == 0).any(axis=1) & (experts_NK == 1).any(axis=1)
    (layer,) = coactivation(sample_of({0: experts_NK[~never]}, 8))
    assert layer.special[5][6] == layer.special[6][5] == 1
    assert layer.special[0][1] == layer.special[1][0] == -1
    assert layer.share[0][1] == 0


def test_one_meeting_of_rare_experts_is_not_special():
    # Experts 6 and 7 meet once, where chance has it at about 2 * 2 / 1000.
    experts_NK = random_routing(np.random.default_rng(0), 1000, [1, 1, 1, 1, 1, 1, 0, 0], 2)
    experts_NK[:3] = [[6, 7], [6, 0], [7, 0]]
    (layer,) = coactivation(sample_of({0: experts_NK}, 8))
    assert not np.any(layer.special)


def test_where_all_experts_run_for_all_tokens_chance_is_exactly_one():
    (layer,) = coactivation(sample_of({0: [[2, 0, 1], [0, 1, 2], [1, 2, 0]]}, 3))
    assert layer.share == layer.chance == [[None, 1, 1], [1, None, 1], [1, 1, None]]
    assert not np.any(layer.special)


def test_one_token_leaves_nothing_to_chance():
    (layer,) = coactivation(sample_of({0: [[1, 0]]}, 2))
    assert layer.share == layer.chance == [[None, 1], [1, None]]
    assert layer.special == [[0, 0], [0, 0]]


def test_layers_where_no_token_has_two_experts_are_left_out():
    experts = {0: [[0], [1]], 1: [[0, -1], [-1, 1]], 2: [[0, 1], [1, -1]], 5: [[-1, -1], [-1, -1]]}
    assert [layer.layer for layer in coactivation(sample_of(experts, 2))] == [2]


def test_of_a_long_sample_share_and_chance_are_of_the_same_tokens():
    experts_NK = random_routing(np.random.default_rng(0), 3 * MOST_TOKENS + 5, [5, 4, 3, 2, 1], 3)
    (layer,) = coactivation(sample_of({0: experts_NK}, 5))
    assert layer.tokens == MOST_TOKENS
    # A token of the row's expert has two others, so that each row sums to 2 if its load is that of the same tokens.
    for row in range(5):
        assert sum(share for share in layer.share[row] if share is not None) == pytest.approx(2, abs=1e-12)
        assert sum(share for share in layer.chance[row] if share is not None) == pytest.approx(2, abs=1e-12)


def test_a_long_sample_is_not_seen_at_every_fourth_position_alone():
    # Every fourth token of four times the most is all that is looked at, and every fourth goes to expert 1.
    experts_NK = np.tile([[0, 1], [0, 2], [0, 2], [0, 2]], (MOST_TOKENS, 1))
    (layer,) = coactivation(sample_of({0: experts_NK}, 3))
    assert layer.share[0][1:] == pytest.approx([0.25, 0.75], abs=0.03)


def test_a_seed_gives_the_same_again_and_other_layers_do_not_matter():
    one, other = (random_routing(np.random.default_rng(seed), 50, [1, 2, 3, 4], 2) for seed in (0, 1))
    alone, beside = coactivation(sample_of({3: one}, 4), seed=7), coactivation(sample_of({1: other, 3: one}, 4), seed=7)
    assert alone == beside[1:]
    assert coactivation(sample_of({3: one}, 4), seed=8)[0].chance != alone[0].chance
    twins = coactivation(sample_of({3: one, 4: one}, 4), seed=7)
    assert twins[0].chance != twins[1].chance
