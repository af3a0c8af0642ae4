"""What chance gives: the documents of the labels are shuffled and laid along the routing in the new order.

Tokens of one document are alike, so shuffling single tokens would take any two documents for evidence. Shuffled documents keep what is
alike within a document, and keep both margins: every label its count, every expert its load.

Knows document numbers and arrays of figures. Must not know labels or experts. Shape letters: N tokens, R the text itself and its shuffles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A report on routing that has nothing to do with the labels marks anything at all with this probability.
FAMILY_ERROR = 0.05
# Of the intervals that are reported.
INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Null:
    """A figure over shuffled texts: its mean, and the interval that holds 95 % of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, shuffled: np.ndarray) -> Null:
        """Of the figures of the shuffles alone, without the text's own."""
        low, high = np.quantile(shuffled, INTERVAL)
        return cls(float(shuffled.mean()), float(low), float(high))


def document_shuffles(documents_N: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """int64 [N], `count` times: the token that lends its label to each token; first the text itself, then shuffled documents."""
    rng = np.random.default_rng(seed)
    starts = np.flatnonzero(np.diff(documents_N, prepend=documents_N[0] - 1))
    lengths = np.diff(starts, append=len(documents_N))
    yield np.arange(len(documents_N))
    for _ in range(count):
        order = rng.permutation(len(starts))
        new_starts = np.cumsum(lengths[order]) - lengths[order]
        yield np.arange(len(documents_N)) + np.repeat(starts[order] - new_starts, lengths[order])


def standard_scores(figures: np.ndarray) -> np.ndarray:
    """How many standard deviations each figure is from the mean over the first axis, [R, ...]; 0 where all are the same.

    The text's own figure counts in mean and deviation: by chance alone it is one of R that might as well change places, so that the
    largest score of it is the largest of all with probability 1 / R, whatever the distribution (Westfall and Young 1993).
    """
    deviation = figures.std(axis=0)
    spread = np.where(deviation > 1e-12, deviation, np.inf)
    return (figures - figures.mean(axis=0)) / spread


def family_threshold(largest_scores_R: np.ndarray) -> float:
    """The score that the largest of a shuffled text stays at or below with probability 1 - FAMILY_ERROR."""
    return float(np.quantile(largest_scores_R, 1 - FAMILY_ERROR, method="higher"))


def family_p_value(score: float, largest_scores_R: np.ndarray) -> float:
    """The share of the R texts, the own one included, whose largest score is this or more."""
    return float((largest_scores_R >= score - 1e-9).mean())
