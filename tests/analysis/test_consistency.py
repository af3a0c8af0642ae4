"""Consistency of consecutive tokens by hand, against loops, and its chance level against what is known of it."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings

from moecli.analysis.consistency import consistency
from tests.analysis.samples import random_routing, sample_of, samples


def test_consistency_by_hand():
    # Pairs of tokens: (0, 1) same first choice; (1, 2) has expert 1 in common; (3, 4) nothing, for "no second expert" is none;
    # (4, 5) the second of token 4 is the first of token 5. Token 3 begins a sequence. Tokens 6 has no first choice: no pair with it.
    tokens = [[0, 1], [0, 1], [2, 1], [2, -1], [0, -1], [3, 0], [-1, 3], [3, 0]]
    follows = [False, True, True, False, True, True, True, True]
    (layer,) = consistency(sample_of({2: tokens}, 4, follows=follows))
    assert (layer.layer, layer.pairs) == (2, 4)
    assert layer.first == 1 / 4
    assert layer.first_or_second == 3 / 4
    json.dumps(asdict(layer))


@settings(max_examples=50, deadline=None)
@given(samples())
def test_consistency_is_that_of_a_loop(sample):
    found = {layer.layer: layer for layer in consistency(sample)}
    for number, experts_NK in sample.experts.items():
        tokens = experts_NK.tolist()
        pairs = [(tokens[place - 1], tokens[place]) for place in range(1, len(tokens)) if sample.follows_N[place]]
        pairs = [(here, there) for here, there in pairs if here[0] >= 0 and there[0] >= 0]
        assert (number in found) == bool(pairs)
        if pairs:
            layer = found[number]
            assert layer.pairs == len(pairs)
            assert layer.first == sum(here[0] == there[0] for here, there in pairs) / len(pairs)
            common = sum(bool((set(here[:2]) & set(there[:2])) - {-1}) for here, there in pairs) / len(pairs)
            assert layer.first_or_second == (common if experts_NK.shape[1] > 1 else None)


def test_chance_of_an_even_load_is_mixtrals():
    # 8 experts, 2 per token: the same first choice 1/8, any in common 1 - C(6, 2) / C(8, 2) = 1 - 15/28 = 0.464.
    (layer,) = consistency(sample_of({0: random_routing(np.random.default_rng(0), 20_000, [1] * 8, 2)}, 8))
    for figure, chance, expected in (
        (layer.first, layer.first_chance, 0.125),
        (layer.first_or_second, layer.first_or_second_chance, 13 / 28),
    ):
        assert chance.mean == pytest.approx(expected, abs=0.002)
        assert figure == pytest.approx(expected, abs=0.02)
        assert chance.low < chance.mean < chance.high


def test_chance_of_a_first_choice_is_the_sum_of_products_of_shares():
    # The first token of a pair is on expert 0, 1, 2 in 60, 30, 10 % of the pairs, the second in 20, 20, 60 %:
    # 0.6 * 0.2 + 0.3 * 0.2 + 0.1 * 0.6 = 0.24, while the pairs themselves never agree in the 10 % of (2, 0).
    rng = np.random.default_rng(0)
    here = rng.permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    there = rng.permutation(np.repeat([0, 1, 2], [200, 200, 600]))
    tokens = np.stack([here, there], axis=1).reshape(-1, 1)
    (layer,) = consistency(sample_of({0: tokens}, 3, follows=[False, True] * 1000))
    assert layer.pairs == 1000
    assert layer.first_chance.mean == pytest.approx(0.24, abs=0.003)


def test_chance_is_that_of_whole_shuffles():
    rng = np.random.default_rng(0)
    tokens = random_routing(rng, 1001, [5, 3, 1, 1, 1], 2)
    (layer,) = consistency(sample_of({0: tokens}, 5))
    here, there = tokens[:-1], tokens[1:]
    figures = []
    for _ in range(2000):
        other = there[rng.permutation(1000)]
        figures.append([(here[:, 0] == other[:, 0]).mean(), (here[:, :, None] == other[:, None, :]).any(axis=(1, 2)).mean()])
    means, deviations = np.mean(figures, axis=0), np.std(figures, axis=0)
    lows, highs = np.quantile(figures, [0.025, 0.975], axis=0)
    for place, chance in enumerate((layer.first_chance, layer.first_or_second_chance)):
        # Of 200 draws a mean is known to 0.07 deviations, a 2.5 % quantile to about 0.2.
        assert chance.mean == pytest.approx(means[place], abs=0.3 * deviations[place])
        assert chance.low == pytest.approx(lows[place], abs=0.7 * deviations[place])
        assert chance.high == pytest.approx(highs[place], abs=0.7 * deviations[place])


def test_chance_of_tokens_that_take_turns():
    # Neighbours never agree, every second token always does. 999 pairs in any order agree in half, with a deviation of 1.6 %.
    (layer,) = consistency(sample_of({0: [[0], [1]] * 500}, 2))
    assert layer.first == 0
    assert layer.first_chance.mean == pytest.approx(0.5, abs=0.01)
    assert 0.45 < layer.first_chance.low < layer.first_chance.high < 0.55


def test_chance_is_as_sure_as_two_hundred_draws():
    # 201 tokens on two experts, half each: 200 pairs in any order agree in half, with a deviation of 1 / (2 * sqrt(199)) = 3.5 %.
    tokens = np.random.default_rng(0).permutation(np.repeat([0, 1], [100, 101]))[:, None]
    means = [consistency(sample_of({0: tokens}, 2), seed)[0].first_chance.mean for seed in range(40)]
    # The mean of 200 draws has 0.07 of that, of 20 it would have 0.22.
    assert np.std(means) < 0.12 * 0.035


def test_one_expert_for_all_is_consistent_by_chance_too():
    (layer,) = consistency(sample_of({0: [[1, 0]] * 5}, 2))
    assert (layer.first, layer.first_or_second) == (1, 1)
    assert layer.first_chance == layer.first_or_second_chance
    assert (layer.first_chance.mean, layer.first_chance.low, layer.first_chance.high) == (1, 1, 1)


def test_a_single_pair_can_only_be_exchanged_for_itself():
    (layer,) = consistency(sample_of({0: [[0, 1], [1, 2]]}, 3))
    assert (layer.first, layer.first_or_second) == (0, 1)
    assert (layer.first_chance.mean, layer.first_or_second_chance.mean) == (0, 1)


def test_no_second_choice_no_figure():
    (layer,) = consistency(sample_of({0: [[0], [0], [1]]}, 2))
    assert (layer.first, layer.first_or_second, layer.first_or_second_chance) == (0.5, None, None)


def test_layers_without_a_pair_are_left_out():
    assert consistency(sample_of({0: [[0]]}, 1)) == []
    assert consistency(sample_of({0: [[0], [0]]}, 1, follows=[False, False])) == []
    assert [layer.layer for layer in consistency(sample_of({0: [[0], [-1]], 3: [[0], [0]]}, 1))] == [3]


def test_a_seed_gives_the_same_again_and_other_layers_do_not_matter():
    one, other = (random_routing(np.random.default_rng(seed), 50, [1, 2, 3, 4], 2) for seed in (0, 1))
    alone, beside = consistency(sample_of({3: one}, 4), seed=7), consistency(sample_of({1: other, 3: one}, 4), seed=7)
    assert alone == beside[1:]
    assert consistency(sample_of({3: one}, 4), seed=8)[0].first_chance != alone[0].first_chance
    twins = consistency(sample_of({3: one, 4: one}, 4), seed=7)
    assert twins[0].first_chance != twins[1].first_chance
