"""Specialisation by hand, against chance: nothing is special on random routing, and what was planted is found."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain, permutations

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


def test_the_information_is_of_first_choices_not_of_the_first_that_ran():
    # The first choice of x is expert 0, of y expert 1, but half of the y lost it for lack of room; the second choice, 2, ran for all.
    experts = np.array([[0, 2], [0, 2], [0, 2], [0, 2], [1, 2], [1, 2], [-1, 2], [-1, 2]])
    sample = sample_of({0: experts}, 3, lengths=[4, 4], labels=np.repeat([1, 2], 4), names=("x", "y"))
    (label,) = specialise(sample, ["domain"], min_count=1).labels
    # Of six tokens with a first choice: x on 0 four times, y on 1 twice. I = H(label) = -2/3 ln 2/3 - 1/3 ln 1/3.
    assert label.layers[0].mutual_information == pytest.approx(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))


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


def test_a_shuffle_lends_every_document_the_labels_of_another():
    # Documents [0 1], [2 3 4] and [5 6 7 8 9]: beginnings lend to beginnings, and what follows is stretched or shrunk to the length.
    #   [0 1] takes from [2 3 4]: 2 and then the first of what follows, 3. From [5..9]: 5 6.
    #   [2 3 4] takes from [0 1]: 0 and twice 1. From [5..9]: 5, then places 1 + 0 * 4 // 2 and 1 + 1 * 4 // 2: 6 and 8.
    #   [5..9] takes from [0 1]: 0 and four times 1. From [2 3 4]: 2, then places 1 + (0, 1, 2, 3) * 2 // 4: 3 3 4 4.
    documents_N = np.repeat([4, 7, 9], [2, 3, 5])
    first, *shuffles = list(document_shuffles(documents_N, 200, seed=0))
    assert first.lender_N.tolist() == list(range(10)) and not first.shift_N.any()
    documents = [[0, 1], [2, 3, 4], [5, 6, 7, 8, 9]]
    of_first = {0: [0, 1], 2: [2, 3], 5: [5, 6]}
    of_second = {0: [0, 1, 1], 2: [2, 3, 4], 5: [5, 6, 8]}
    of_third = {0: [0, 1, 1, 1, 1], 2: [2, 3, 3, 4, 4], 5: [5, 6, 7, 8, 9]}
    orders = {tuple(shuffle.lender_N) for shuffle in shuffles}
    assert orders == {tuple(of_first[x] + of_second[y] + of_third[z]) for x, y, z in permutations((0, 2, 5))}
    assert {tuple(shuffle.laid_N) for shuffle in shuffles} == {
        tuple(chain.from_iterable(documents[number] for number in order)) for order in permutations((0, 1, 2))
    }
    for shuffle in shuffles[:5]:  # a document is moved as a whole
        assert [len(set(part)) for part in np.split(shuffle.shift_N, [2, 5])] == [1, 1, 1]
    assert len({int(shuffle.shift_N[0]) for shuffle in shuffles}) > 190


def test_a_document_of_one_token_lends_it_to_all():
    shuffles = list(document_shuffles(np.array([0, 1, 1, 1]), 20, seed=0))
    assert {tuple(shuffle.lender_N) for shuffle in shuffles} == {(0, 1, 2, 3), (1, 0, 0, 0)}


def test_scores_and_family_by_hand():
    # Column 0: 3, 1, 2, 2: mean 2, variance (1 + 1) / 4, so the text scores 1 / sqrt(1/2). Column 1 is constant: no score.
    scores = standard_scores(np.array([[3.0, 5.0], [1.0, 5.0], [2.0, 5.0], [2.0, 5.0]]))
    assert scores[:, 0] == pytest.approx([math.sqrt(2), -math.sqrt(2), 0, 0])
    assert (scores[:, 1] == 0).all()
    # With a variance of 1 at least added: sqrt(1 + 1/2), so the text scores 1 / sqrt(3/2).
    assert standard_scores(np.array([3.0, 1.0, 2.0, 2.0]), 1.0)[0] == pytest.approx(1 / math.sqrt(1.5))
    assert family_p_value(math.sqrt(2), scores.max(axis=1)) == 2 * 0.25  # 1 of 4 texts, for one of two kinds of claims
    assert family_p_value(0, scores.max(axis=1)) == 1
    # Of 101 texts five are beyond the threshold: 96 of the scores 0 to 100 are 95 or less.
    assert family_threshold(np.arange(101.0), 0.05) == 95
    null = Null.of(np.arange(101.0))
    assert (null.mean, null.low, null.high) == (50, 2.5, 97.5)


LENGTHS = {
    "equal": lambda rng: [60] * 40,
    "uneven": lambda rng: rng.integers(10, 120, 40).tolist(),
    "very uneven": lambda rng: (np.exp(rng.normal(4, 1, 40)).astype(int) + 2).tolist(),
    "one giant": lambda rng: [20] * 20 + [2000] + [20] * 20,
}


def favourites(rng: np.random.Generator, lengths: list[int], num_experts: int, top_k: int) -> np.ndarray:
    """Every document has an expert that most of its tokens go to, whatever its labels."""
    favourite_N = np.repeat(rng.integers(0, num_experts, len(lengths)), lengths)
    draws = rng.gumbel(size=(len(favourite_N), num_experts))
    draws[np.arange(len(favourite_N)), favourite_N] += 3
    return np.argsort(-draws, axis=1)[:, :top_k]


@pytest.mark.parametrize("lengths_of", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("has_favourites", [False, True])
@pytest.mark.parametrize("by", ["document", "token"])
def test_a_report_on_routing_without_labels_claims_nothing(lengths_of, has_favourites, by):
    """40 reports of 2 layers; labels have nothing to do with the experts. Each claims anything at all with probability 0.05 or less.

    That documents have favourite experts is no evidence for their labels, whatever their lengths.
    """
    claims = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 1])
        lengths = lengths_of(rng)
        num_tokens = sum(lengths)
        if by == "document":
            labels_N = np.repeat(rng.integers(1, 4, len(lengths)), lengths)
        else:  # documents that are mixed of the labels in different parts
            parts = rng.dirichlet([1, 1, 1], len(lengths))
            labels_N = np.concatenate([rng.choice(3, length, p=part) + 1 for part, length in zip(parts, lengths, strict=True)])
        experts = {
            layer: favourites(rng, lengths, 8, 2) if has_favourites else random_experts(rng, num_tokens, 8, 2, skew=0.3 * layer)
            for layer in range(2)
        }
        sample = replace(
            sample_of(experts, 8, lengths=lengths, labels=labels_N, names=("a", "b", "c")), ids_N=rng.zipf(1.5, num_tokens) % 200
        )
        found = specialise(sample, ["domain", "position"], min_count=20, num_shuffles=60, seed=seed)
        claims += any(layer.significant or np.any(layer.special) for label in found.labels for layer in label.layers) or any(
            layer.significant for layer in found.vocabulary
        )
    # Binomial(40, 0.05): more than 7 have a probability of 0.1 %.
    assert claims <= 7


def test_an_expert_for_ends_of_text_is_none_for_the_labels_of_short_texts():
    """Rows of a table: the end of text before each has no label, and an expert of its own, which says nothing of the labels."""
    claims = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(3, 12, 400).tolist()
        is_end_N = np.diff(np.repeat(np.arange(400), lengths), prepend=-1) > 0
        labels_N = np.where(is_end_N, 0, np.repeat(rng.integers(1, 4, 400), lengths))
        experts = np.where(is_end_N, 0, random_experts(rng, sum(lengths), 4, 1)[:, 0])
        sample = sample_of({0: experts[:, None]}, 4, lengths=lengths, labels=labels_N, names=("a", "b", "c"))
        (label,) = specialise(replace(sample, ids_N=np.zeros_like(labels_N)), ["domain"], min_count=20, num_shuffles=60, seed=seed).labels
        claims += label.layers[0].significant or bool(np.any(label.layers[0].special))
    # Binomial(30, 0.05): more than 6 have a probability of 0.03 %.
    assert claims <= 6


def test_words_of_single_documents_are_no_vocabulary_of_an_expert():
    """A word that one document alone has goes where the document goes; other documents' words would in its place."""
    claims = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        lengths = LENGTHS["very uneven"](rng)
        own_N = np.repeat(np.arange(100, 140), lengths)
        ids_N = np.where(rng.random(sum(lengths)) < 0.3, own_N, rng.integers(0, 40, sum(lengths)))
        sample = replace(sample_of({0: favourites(rng, lengths, 8, 1)}, 8, lengths=lengths), ids_N=ids_N)
        (layer,) = specialise(sample, [], min_count=20, num_shuffles=60, seed=seed).vocabulary
        claims += layer.significant
    assert claims <= 6


def test_what_depends_on_the_position_is_found_although_documents_fill_sequences():
    rng = np.random.default_rng(0)
    experts = np.where((np.arange(800) % 8 == 0) & (rng.random(800) < 0.7), 3, random_experts(rng, 800, 4, 1)[:, 0])
    (label,) = specialise(sample_of({0: experts[:, None]}, 4, lengths=[16] * 50), ["position"], min_count=20).labels
    assert label.values == ["0", "1", "2-3", "4-7"]
    (layer,) = label.layers
    assert layer.significant and layer.special[0][3] == 1


def test_near_dead_experts_and_rare_values_do_not_hide_what_is_there():
    """A cell that is empty in all texts but one must not set the threshold for all."""
    found = 0
    for seed in range(5):
        rng = np.random.default_rng(seed)
        lengths = [25] * 200
        labels_N = np.repeat(np.arange(200) % 40 + 1, 25)
        experts = random_experts(rng, 5000, 14, 1)[:, 0]
        experts[rng.integers(0, 5000, 10)] = rng.integers(14, 16, 10)  # two experts with five tokens or so
        experts = np.where((labels_N == 7) & (rng.random(5000) < 0.6), 2, experts)
        sample = sample_of({0: experts[:, None]}, 16, lengths=lengths, labels=labels_N, names=tuple(map(str, range(40))))
        (label,) = specialise(sample, ["domain"], min_count=20, seed=seed).labels
        found += label.layers[0].special[6][2] == 1
    assert found == 5


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
    # No shuffle comes near it: 1 of 101 texts, times two kinds of claims.
    assert planted.significant and planted.p_value == pytest.approx(2 / 101) and not random.significant
    # Expert 5 is above chance for domain b, and nothing else is.
    signs_VE = np.array(planted.special)
    assert signs_VE[1, 5] == 1 and (signs_VE > 0).sum() == 1
    assert np.all(np.array(random.special) == 0)
    assert planted.nmi_corrected > 0.02 > abs(random.nmi_corrected)
    # What is corrected is what is left of both, nmi and its largest value, when chance is taken off.
    null = planted.nmi_null.mean
    assert (
        planted.nmi_corrected == pytest.approx((planted.nmi - null) / (1 - null), rel=1e-9) and planted.nmi_corrected > planted.nmi - null
    )
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
    # The first five have 20 tokens, which is just enough, but fifty others have more; the last has one too few.
    num_values = MOST_VALUES + 5
    labels_N = np.repeat(np.arange(1, num_values + 2), [20] * 5 + [30] * MOST_VALUES + [19])
    names = tuple(f"v{number}" for number in range(1, num_values + 2))
    sample = sample_of(
        {0: np.zeros((len(labels_N), 1))}, 2, lengths=[11] * (len(labels_N) // 11) + [len(labels_N) % 11], labels=labels_N, names=names
    )
    (label,) = specialise(sample, ["domain"], min_count=20, num_shuffles=3).labels
    assert label.values == [f"v{number}" for number in range(6, num_values + 1)] and label.too_rare == 6
    (layer,) = label.layers
    assert layer.nmi == 0  # one expert has all: nothing can be known from it


def test_just_enough_tokens_are_enough():
    labels_N = np.repeat([1, 2, 3], [20, 20, 19])
    sample = sample_of({0: np.zeros((59, 1))}, 2, lengths=[30, 29], labels=labels_N, names=("a", "b", "c"))
    found = specialise(sample, ["domain"], min_count=20, num_shuffles=3)
    assert found.labels[0].values == ["a", "b"] and found.labels[0].counts == [20, 20]
    assert found.vocabulary[0].token_types == 2  # the ids are the labels


def test_the_favourite_tokens_are_those_furthest_above_chance_for_their_number():
    # 1,200 tokens, half of them on each expert. Id 1: 30 of 30 on expert 0, which is sqrt(30) = 5.5 deviations of 1/2 above 1/2.
    # Id 2: 300 of 400 on expert 0, 0.25 * sqrt(400) / 0.5 = 10. Id 3 evens them out: 500 of 770 on expert 1.
    ids_N = np.repeat([1, 2, 3], [30, 400, 770])
    experts = np.concatenate([np.zeros(30), np.repeat([0, 1], [300, 100]), np.repeat([0, 1], [270, 500])])
    sample = replace(sample_of({0: experts[:, None]}, 2, lengths=[600, 600]), ids_N=ids_N)
    (layer,) = specialise(sample, [], min_count=20, num_shuffles=3).vocabulary
    assert [(token.id, token.expert) for token in layer.top] == [(2, 0), (3, 1), (1, 0)]  # id 3: (500 - 385) / sqrt(770) * 2 = 8.3
    # The largest shares are 1, 3/4 and 500/770.
    assert layer.mean_max_share == pytest.approx((1 + 0.75 + 500 / 770) / 3)


def test_one_document_is_no_evidence_of_anything():
    sample = sample_of({0: np.zeros((40, 1))}, 2, lengths=[40], labels=np.arange(40) % 2 + 1, names=("a", "b"))
    found = specialise(sample, ["domain", "position"], min_count=1)
    assert found.labels == [] and found.vocabulary == []


def test_a_label_with_one_value_is_left_out():
    sample = sample_of({0: np.zeros((40, 1))}, 2, lengths=[20, 20], labels=np.ones(40, dtype=np.int64), names=("only",))
    assert specialise(sample, ["domain"], min_count=20).labels == []
