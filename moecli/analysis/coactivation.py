"""Which experts run for the same tokens (OLMoE, arXiv 2409.02060, eq. 6), beside what chance gives.

Knows a RoutingSample. Must not know models, labels or how the numbers are shown.

OLMoE's code counts neighbours in the order of the scores alone; this is the definition, all pairs of a token's experts.
Shape letters: N tokens, K slots of a token (an expert's number + 1, or 0 for none), E experts, P pairs of experts i < j, R the text itself
and its rounds. In a trade P are pairs of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moecli.analysis.sample import RoutingSample
from moecli.analysis.shuffles import REPORT_ERROR, family_threshold

# Of a longer sample so many tokens are taken.
MOST_TOKENS = 8192
# Random routings that chance is the mean of, the trades of every token before the first of them, and between any two. A trade tears
# apart half of the pairs that can be, so 4 leave a sixteenth of what two rounds have in common.
ROUNDS, FIRST_TRADES, TRADES = 200, 64, 4
# Bits of a number that is dealt, under its random rank.
SLOT_BITS = 16
LAST_RANK = 1 << 46


@dataclass(frozen=True, slots=True)
class Coactivation:
    """One layer. `share`, `chance` and `special` are [E][E] and all of the same tokens."""

    layer: int
    share: list[list[float | None]]
    """Of the tokens of the row's expert, those that the column's ran for too; None on the diagonal and for an expert without tokens."""
    chance: list[list[float | None]]
    """The same if tokens drew their experts at random, with as many experts per token and as many tokens per expert as there are."""
    special: list[list[int]]
    """-1 or 1 where the share is below or above chance, family-wise 95 % over all pairs of all layers; else 0."""
    tokens: int
    """That were looked at: the whole sample, or 8,192 spread over it."""


def coactivation(sample: RoutingSample, seed: int = 0) -> list[Coactivation]:
    """All layers in which some token has two experts.

    Of a sample with more than 8,192 tokens so many are taken, one from each of as many equal stretches; shares, chance and `tokens` are of
    those. Chance takes tokens as independent: a pair that one frequent word always goes to is special, and rightly so.

    Args:
        sample: in which no token has an expert twice.
        seed: of the tokens taken and of the random routings.
    """
    tokens_N = _spread_tokens(len(sample.ids_N), np.random.default_rng(seed))
    pairs = []
    for layer, experts_NK in sample.experts.items():
        slots_NK = experts_NK[tokens_N].astype(np.int64) + 1
        if ((slots_NK > 0).sum(axis=1) > 1).any():
            pairs.append(_layer_pairs(layer, slots_NK, sample.num_experts[layer], np.random.default_rng([seed, layer])))
    if not pairs:
        return []
    threshold = family_threshold(np.max([layer.largest_R for layer in pairs], axis=0), REPORT_ERROR)
    return [layer.judged(threshold, len(tokens_N)) for layer in pairs]


def random_routings(slots_NK: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Slots [N, K], without end: routings drawn evenly from all that have the same experts per token and tokens per expert."""
    trades = FIRST_TRADES
    while True:
        for _ in range(trades):
            slots_NK = _trade(slots_NK, rng)
        yield slots_NK
        trades = TRADES


def _spread_tokens(num_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Up to MOST_TOKENS indices, ascending. One at random from each stretch: every 16th token would be at the same few positions."""
    if num_tokens <= MOST_TOKENS:
        return np.arange(num_tokens)
    bounds = np.arange(MOST_TOKENS + 1) * num_tokens // MOST_TOKENS
    return rng.integers(bounds[:-1], bounds[1:])


@dataclass(frozen=True, slots=True)
class _LayerPairs:
    """A layer before its pairs are judged, which is done for all layers together."""

    layer: int
    load_E: np.ndarray
    counts_P: np.ndarray
    """Of the text."""
    chance_P: np.ndarray
    """Mean of the counts of the rounds."""
    scores_P: np.ndarray
    largest_R: np.ndarray
    """Largest score of each text."""

    def judged(self, threshold: float, num_tokens: int) -> Coactivation:
        special_P = np.where(np.abs(self.scores_P) > threshold, np.sign(self.scores_P), 0).astype(np.int64)
        return Coactivation(
            layer=self.layer,
            share=_shares(self.counts_P, self.load_E),
            chance=_shares(self.chance_P, self.load_E),
            special=_square(special_P, len(self.load_E)).tolist(),
            tokens=num_tokens,
        )


def _layer_pairs(layer: int, slots_NK: np.ndarray, num_experts: int, rng: np.random.Generator) -> _LayerPairs:
    """Scores are the distance from the mean in deviations, the text's own counts in both, so that by chance the text might change places
    with any round (Westfall and Young 1993). A count is taken to be uncertain by 1 at least: else the first of a pair that hardly ever
    meets would outdo all others.
    """
    routings = random_routings(slots_NK, rng)
    rounds = [_pair_counts(next(routings), num_experts) for _ in range(ROUNDS)]
    counts_RP = np.stack([_pair_counts(slots_NK, num_experts), *rounds])
    mean_P, deviation_P = counts_RP.mean(axis=0), np.sqrt(counts_RP.var(axis=0) + 1)
    return _LayerPairs(
        layer=layer,
        load_E=np.bincount(slots_NK.ravel(), minlength=num_experts + 1)[1:],
        counts_P=counts_RP[0],
        chance_P=counts_RP[1:].mean(axis=0),
        scores_P=(counts_RP[0] - mean_P) / deviation_P,
        # Round by round: with hundreds of experts all scores at once would fill hundreds of megabytes.
        largest_R=np.array([np.abs((counts_P - mean_P) / deviation_P).max() for counts_P in counts_RP]),
    )


def _trade(slots_NK: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every token trades with another: the experts that only one of the two has are pooled and dealt anew, to each as many as it had.

    That is the curveball of Strona et al. 2014 (doi 10.1038/ncomms5114), for all pairs of tokens at once. Tokens come out in another order.
    """
    num_tokens, num_slots = slots_NK.shape
    num_pairs = num_tokens // 2
    slots_NK = slots_NK[rng.permutation(num_tokens)]
    left_PK, right_PK, idle = slots_NK[:num_pairs], slots_NK[num_pairs : 2 * num_pairs], slots_NK[2 * num_pairs :]
    # The experts of both, sorted, so that what both have stands side by side. The last bit says whose it is.
    both = np.sort(np.concatenate([left_PK << 1, right_PK << 1 | 1], axis=1), axis=1)
    slots, is_right = both >> 1, both & 1
    is_same = slots[:, 1:] == slots[:, :-1]
    stays = slots == 0
    stays[:, 1:] |= is_same
    stays[:, :-1] |= is_same
    # Sorting deals: what stays with the left token ranks first, what stays with the right one last, and between them the pool, at random.
    ranks = np.where(stays, is_right * LAST_RANK, rng.integers(1, LAST_RANK, size=slots.shape))
    dealt = np.sort(ranks << SLOT_BITS | slots, axis=1) & ((1 << SLOT_BITS) - 1)
    return np.concatenate([dealt[:, :num_slots], dealt[:, num_slots:], idle])


def _pair_counts(slots_NK: np.ndarray, num_experts: int) -> np.ndarray:
    """int32 [P]: tokens that both experts of a pair ran for."""
    size = num_experts + 1
    firsts, seconds = np.triu_indices(slots_NK.shape[1], 1)
    codes = slots_NK[:, firsts] * size + slots_NK[:, seconds]
    table = np.bincount(codes.ravel(), minlength=size * size).reshape(size, size)[1:, 1:]
    return (table + table.T)[np.triu_indices(num_experts, 1)].astype(np.int32)


def _square(values_P: np.ndarray, num_experts: int) -> np.ndarray:
    """[E, E], symmetric, 0 on the diagonal."""
    square_EE = np.zeros((num_experts, num_experts), dtype=values_P.dtype)
    square_EE[np.triu_indices(num_experts, 1)] = values_P
    return square_EE + square_EE.T


def _shares(counts_P: np.ndarray, load_E: np.ndarray) -> list[list[float | None]]:
    shares_EE = _square(counts_P, len(load_E)) / np.maximum(1, load_E)[:, None]
    return [
        [float(share) if load and row != column else None for column, share in enumerate(shares_EE[row])] for row, load in enumerate(load_E)
    ]
