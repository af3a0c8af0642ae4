"""Specialisation by hand, against chance: nothing is special on random routing, and what was planted is found."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from moecli.analysis.sample import RoutingSample
from moecli.analysis.shuffles import Null, document_shuffles, family_p_value, family_threshold, standard_scores
from moecli.analysis.specialisation import MOST_VALUES, entropy_of, mutual_information, position_labels, specialise


def sample_of(
    experts: dict[int, np.ndarray], num_experts: int, *, lengths: list[int], labels: np.ndarray | None = None, names: tuple[str, ...] = ()
) -> RoutingSample:
    """Documents of these lengths, as windows of 8 tokens; the ids are the labels."""
    num_tokens = sum(lengths)
    labels_N = np.zeros(num_tokens, dtype=np.int64) if labels is None else labels
    positions_N = np.arange(num_tokens) % 8
    return RoutingSample(
        ids_N=labels_N,
        positions_N=positions_N,
        documents_N=np.repeat(np.arange(len(lengths)), lengths),
        follows_N=positions_N > 0,
        labels={"domain": labels_N},
        label_names={"domain": ("", *names)},
        experts={layer: experts_NK.astype(np.int16) for layer, experts_NK in experts.items()},
        num_experts=dict.fromkeys(experts, num_experts),
        num_tokens_seen=num_tokens,
    )


def random_experts(rng: np.random.Generator, num_tokens: int, num_experts: int, top_k: int, skew: float = 0.0) -> np.ndarray:
    """k different experts per token, whatever the token; with skew some experts are drawn far more often."""
    draws = rng.gumbel(size=(num_tokens, num_experts)) - skew * np.arange(num_experts)
    return np.argsort(-draws, axis=1)[:, :top_k]


def test_both_conventions_by_hand():
    # Four tokens of x in document 0, four of y in document 1, top-2 of 3 experts.
    #   x: 01 01 02 01  -> expert 0 ran for 4 of 4, 1 for 3, 2 for 1: share of tokens 1, .75, .25, which sums to 2
    #                      of 8 pairs: share of assignments .5, .375, .125
    #   y: 12 12 21 20  -> 0 for 1, 1 for 3, 2 for 4: .25, .75, 1 and .125, .375, .5
    experts = np.array([[0, 1], [0, 1], [0, 2], [0, 1], [1, 2], [1, 2], [2, 1], [2, 0]])
    sample = sample_of({3: experts}, 3, lengths=[4, 4], labels=np.repeat([1, 2], 4), names=("x", "y"))
    (label,) = specialise(sample, ["domain"], min_count=1).labels
    assert (label.values, label.counts, label.too_rare, label.documents) == (["x", "y"], [4, 4], 0, 2)
    (layer,) = label.layers
    assert layer.layer == 3
    assert layer.share_of_tokens == [[1, 0.75, 0.25], [0.25, 0.75, 1]]
    assert layer.share_of_assignments == [[0.5, 0.375, 0.125], [0.125, 0.375, 0.5]]
    # First choices: x all on 0, y on 1, 1, 2, 2. The label is known from the expert: I = H(label) = ln 2, the smaller entropy
    # (of experts: 4/8, 2/8, 2/8, H = 1.5 ln 2). So nmi = 1.
    assert layer.mutual_information == pytest.approx(math.log(2))
    assert layer.nmi == pytest.approx(1)
    # Two documents of equal length have two orders, alike but for the names: chance can't be told from anything.
    assert not layer.significant and np.all(np.array(layer.special) == 0)


def test_dropped_choices_count_nowhere():
    experts = np.array([[0, 1], [-1, 1], [-1, -1], [0, -1]])
    sample = sample_of({0: experts}, 2, lengths=[2, 2], labels=np.array([1, 1, 2, 2]), names=("x", "y"))
    (label,) = specialise(sample, ["domain"], min_count=1).labels
    (layer,) = label.layers
    # x: expert 0 for 1 of 2 tokens, 1 for 2 of 2. y: expert 0 for 1 of 2.
    assert layer.share_of_tokens == [[0.5, 1], [0.5, 0]]
    assert layer.share_of_assignments == [[pytest.approx(1 / 3), pytest.approx(2 / 3)], [1, 0]]


def test_mutual_information_by_hand():
    # [[2, 0], [1, 1]] of 4: p = 1/2, 0, 1/4, 1/4; rows 1/2, 1/2; columns 3/4, 1/4.
    # I = 1/2 ln(1/2 / 3/8) + 1/4 ln(1/4 / 3/8) + 1/4 ln(1/4 / 1/8) = 1/2 ln 4/3 + 1/4 ln 2/3 + 1/4 ln 2
    expected = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3) + 0.25 * math.log(2)
    assert mutual_information(np.array([[2, 0], [1, 1]])) == pytest.approx(expected)
    assert mutual_information(np.array([[2, 4], [3, 6]])) == pytest.approx(0)  # independent
    assert mutual_information(np.zeros((2, 2))) == 0
    assert entropy_of(np.array([1, 1, 0, 2])) == pytest.approx(1.5 * math.log(2))
    assert entropy_of(np.zeros(3)) == 0


def test_positions_are_grouped_by_powers_of_two():
    numbers_N, names = position_labels(np.array([0, 1, 2, 3, 4, 7, 8, 15, 16]))
    assert [names[number] for number in numbers_N] == ["0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "8-15", "16-31"]
    assert names[0] == ""


def test_a_shuffle_moves_whole_documents():
    documents_N = np.repeat([4, 7, 9], [2, 3, 1])
    first, *shuffles = list(document_shuffles(documents_N, 50, seed=0))
    assert first.tolist() == [0, 1, 2, 3, 4, 5]
    orders = {tuple(source_N) for source_N in shuffles}
    # The six orders of the documents [0 1], [2 3 4] and [5], and no other.
    assert orders == {
        (0, 1, 2, 3, 4, 5),
        (0, 1, 5, 2, 3, 4),
        (2, 3, 4, 0, 1, 5),
        (2, 3, 4, 5, 0, 1),
        (5, 0, 1, 2, 3, 4),
        (5, 2, 3, 4, 0, 1),
    }


def test_scores_and_family_by_hand():
    # Column 0: 3, 1, 2, 2: mean 2, variance (1 + 1) / 4, so the text scores 1 / sqrt(1/2). Column 1 is constant: no score.
    scores = standard_scores(np.array([[3.0, 5.0], [1.0, 5.0], [2.0, 5.0], [2.0, 5.0]]))
    assert scores[:, 0] == pytest.approx([math.sqrt(2), -math.sqrt(2), 0, 0])
    assert (scores[:, 1] == 0).all()
    assert family_p_value(math.sqrt(2), scores.max(axis=1)) == 0.25  # 1 of 4 texts
    assert family_p_value(0, scores.max(axis=1)) == 1
    # Of 101 texts five are beyond the threshold: 96 of the scores 0 to 100 are 95 or less.
    assert family_threshold(np.arange(101.0)) == 95
    null = Null.of(np.arange(101.0))
    assert (null.mean, null.low, null.high) == (50, 2.5, 97.5)


@pytest.mark.parametrize("skew", [0.0, 0.7])
def test_random_routing_has_nothing_special_beyond_the_family_error(skew):
    """60 reports on random routing, domains that fill documents: each marks anything with probability 0.05 or less."""
    marked = informed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(10, 60, 40).tolist()
        labels_N = np.repeat(rng.integers(1, 4, 40), lengths)
        experts = {layer: random_experts(rng, sum(lengths), 8, 2, skew) for layer in range(3)}
        sample = sample_of(experts, 8, lengths=lengths, labels=labels_N, names=("a", "b", "c"))
        found = specialise(sample, ["domain", "position"], min_count=20, num_shuffles=60, seed=seed)
        layers = [layer for label in found.labels for layer in label.layers]
        marked += any(np.any(layer.special) for layer in layers)
        informed += any(layer.significant for layer in layers) or any(layer.significant for layer in found.vocabulary)
    # Binomial(60, 0.05): more than 8 have a probability of 0.3 %.
    assert marked <= 8 and informed <= 8


def test_documents_that_are_alike_inside_are_no_evidence():
    """Each document has favourite experts of its own, whatever its domain: shuffling single tokens would call that specialisation."""
    wrong = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        lengths = [100] * 24
        labels_N = np.repeat(rng.permutation(np.repeat([1, 2], 12)), 100)
        favourites_N = np.repeat(rng.integers(0, 4, 24), 100)
        experts = np.where(rng.random(2400) < 0.8, favourites_N, rng.integers(0, 4, 2400))[:, None]
        sample = sample_of({0: experts}, 4, lengths=lengths, labels=labels_N, names=("a", "b"))
        (label,) = specialise(replace(sample, ids_N=np.zeros(2400, dtype=np.int64)), ["domain"], min_count=20, num_shuffles=60).labels
        wrong += label.layers[0].significant
    # Binomial(30, 0.05): more than 5 have a probability of 0.3 %. (Shuffled tokens would find all 30.)
    assert wrong <= 5


def test_a_planted_speciality_is_found_and_nothing_else():
    rng = np.random.default_rng(0)
    lengths = [50] * 60
    labels_N = np.repeat(np.arange(60) % 3 + 1, 50)
    experts = random_experts(rng, 3000, 8, 1)[:, 0]
    # A third of the tokens of domain 2 that went elsewhere go to expert 5.
    experts = np.where((labels_N == 2) & (rng.random(3000) < 0.33), 5, experts)
    sample = sample_of(
        {0: experts[:, None], 1: random_experts(rng, 3000, 8, 1)}, 8, lengths=lengths, labels=labels_N, names=("a", "b", "c")
    )
    (label,) = specialise(sample, ["domain"], min_count=20).labels
    planted, random = label.layers
    assert planted.significant and planted.p_value == pytest.approx(1 / 101) and not random.significant
    assert planted.special[1][5] == 1 and planted.special[0][5] == planted.special[2][5] == -1
    assert np.all(np.array(random.special) == 0)
    assert planted.nmi_corrected > 0.02 > abs(random.nmi_corrected)
    # Chance is the load, and the interval holds it.
    load_E = np.bincount(experts, minlength=8) / 3000
    assert np.array(planted.chance) == pytest.approx(np.tile(load_E, (3, 1)), abs=0.01)
    assert np.all(np.array(planted.low) <= planted.chance) and np.all(np.array(planted.chance) <= planted.high)


def test_naive_vocabulary_specialisation_is_what_chance_gives():
    """Rare ids look specialised on any routing (every id that occurs once: 100 %); the null has the same bias, so nothing is claimed."""
    rng = np.random.default_rng(1)
    ids_N = rng.zipf(1.5, 6000) % 500
    sample = sample_of({0: random_experts(rng, 6000, 8, 1)}, 8, lengths=[100] * 60)
    (layer,) = specialise(replace(sample, ids_N=ids_N), [], min_count=3).vocabulary
    assert layer.mean_max_share > 0.3 > 1 / 8
    assert layer.null.low < layer.mean_max_share < layer.null.high
    assert not layer.significant


def test_token_ids_with_an_expert_of_their_own_are_found():
    rng = np.random.default_rng(2)
    ids_N = rng.integers(0, 40, 6000)
    experts = np.where(ids_N == 7, 3, random_experts(rng, 6000, 8, 1)[:, 0])
    sample = replace(sample_of({0: experts[:, None]}, 8, lengths=[100] * 60), ids_N=ids_N)
    (layer,) = specialise(sample, [], min_count=20).vocabulary
    assert layer.significant and layer.token_types == 40
    best = layer.top[0]
    assert (best.id, best.expert, best.share, best.count) == (7, 3, 1.0, int((ids_N == 7).sum()))
    assert best.chance == pytest.approx((experts == 3).mean())


def test_rare_and_too_many_values_are_counted_as_left_out():
    num_values = MOST_VALUES + 5
    labels_N = np.repeat(np.arange(1, num_values + 2), [30] * num_values + [3])
    names = tuple(f"v{number}" for number in range(1, num_values + 2))
    sample = sample_of(
        {0: np.zeros((len(labels_N), 1))}, 2, lengths=[11] * (len(labels_N) // 11) + [len(labels_N) % 11], labels=labels_N, names=names
    )
    (label,) = specialise(sample, ["domain"], min_count=20, num_shuffles=3).labels
    assert len(label.values) == MOST_VALUES and label.too_rare == 6
    (layer,) = label.layers
    assert layer.nmi == 0  # one expert has all: nothing can be known from it


def test_a_label_with_one_value_is_left_out():
    sample = sample_of({0: np.zeros((40, 1))}, 2, lengths=[20, 20], labels=np.ones(40, dtype=np.int64), names=("only",))
    assert specialise(sample, ["domain"], min_count=20).labels == []
