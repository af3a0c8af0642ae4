"""What chance gives: every document takes the labels of another, drawn at random, and what was found is computed again.

Tokens of one document are alike, so shuffling single tokens would take any two documents for evidence. Exchanged documents keep what is
alike within a document, on both sides: what the router makes of a document stays as it is, and so does what its labels are like.

Knows document numbers and arrays of figures. Must not know labels or experts.

Shape letters: N tokens, D documents, R the text itself and its shuffles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A report on routing that has nothing to do with the labels claims anything at all with this probability. Its claims are of two kinds,
# about labels as a whole and about single values, and each kind may be wrong with half of it.
REPORT_ERROR, KINDS_OF_CLAIMS = 0.05, 2
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


@dataclass(frozen=True, slots=True)
class Shuffle:
    """The text itself, or what chance could have made of it."""

    lender_N: np.ndarray
    """int64: the token that lends its label to each token. A token may lend often or not at all."""
    laid_N: np.ndarray
    """int64: the same where the documents are laid end to end in another order: every token lends once, but documents meet at random."""
    shift_N: np.ndarray
    """int64: how far the document of each token is moved along the sequences that go through the model; 0 in the text itself."""


def document_shuffles(documents_N: np.ndarray, count: int, seed: int) -> Iterator[Shuffle]:
    """The text itself, then `count` times exchanged documents.

    A document takes the labels of another from the beginning on, stretched or shrunk to its own length: so documents of any length can be
    exchanged, and beginnings (of which the first token, the end of text, is one) meet beginnings. Laid end to end instead, labels of one
    document fall on several, their effects cancel, and chance looks smaller than it is; but every label keeps its count. Figures that
    depend on counts need both.
    """
    rng = np.random.default_rng(seed)
    starts_D = np.flatnonzero(np.diff(documents_N, prepend=documents_N[0] - 1))
    lengths_D = np.diff(starts_D, append=len(documents_N))
    length_N = np.repeat(lengths_D, lengths_D)
    place_N = np.arange(len(documents_N)) - np.repeat(starts_D, lengths_D)
    itself_N = np.arange(len(documents_N))
    yield Shuffle(itself_N, itself_N, np.zeros_like(place_N))
    for _ in range(count):
        order_D = rng.permutation(len(starts_D))
        lender_start_N, lender_length_N = (np.repeat(of_D[order_D], lengths_D) for of_D in (starts_D, lengths_D))
        stretched_N = 1 + (place_N - 1) * (lender_length_N - 1) // np.maximum(1, length_N - 1)
        lender_place_N = np.where(place_N == 0, 0, np.minimum(stretched_N, lender_length_N - 1))
        shift_N = np.repeat(rng.integers(1 << 31, size=len(starts_D)), lengths_D)
        laid_starts_D = np.cumsum(lengths_D[order_D]) - lengths_D[order_D]
        laid_N = itself_N + np.repeat(starts_D[order_D] - laid_starts_D, lengths_D[order_D])
        yield Shuffle(lender_start_N + lender_place_N, laid_N, shift_N)


def standard_scores(figures: np.ndarray, least_variance: float | np.ndarray = 0.0) -> np.ndarray:
    """How many standard deviations each figure is from the mean over the first axis, [R, ...]; 0 where all are the same.

    The text's own figure counts in mean and deviation: by chance alone it is one of R that might as well change places, so that the
    largest score of it is the largest of all with probability 1 / R, whatever the distribution (Westfall and Young 1993).

    Args:
        figures: the text's own first.
        least_variance: added to the variance. Else a cell that is empty in all texts but one would outdo every other in that one.
    """
    deviation = np.sqrt(figures.var(axis=0) + least_variance)
    return (figures - figures.mean(axis=0)) / np.where(deviation > 1e-12, deviation, np.inf)


def family_threshold(largest_scores_R: np.ndarray, error: float) -> float:
    """The score that the largest of a shuffled text stays at or below with probability 1 - error."""
    return float(np.quantile(largest_scores_R, 1 - error, method="higher"))


def family_p_value(score: float, largest_scores_R: np.ndarray) -> float:
    """The share of the R texts, the own one included, whose largest score is this or more, times the kinds of claims; at most 1."""
    share = float((largest_scores_R >= score - 1e-9).mean())
    return min(1.0, KINDS_OF_CLAIMS * share)
