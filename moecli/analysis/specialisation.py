"""What the experts specialise in: by label of the token (domain, token class, any column), by position, by token id; each beside chance.

Knows a RoutingSample. Must not know models or how the numbers are shown.

Shape letters: N tokens, E experts, V values of a label, K choices, R the text itself and its shuffles, A (token, expert) pairs that ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moecli.analysis.pairs import ExpertPairs
from moecli.analysis.sample import RoutingSample
from moecli.analysis.shuffles import (
    INTERVAL,
    KINDS_OF_CLAIMS,
    REPORT_ERROR,
    Null,
    Shuffle,
    document_shuffles,
    family_p_value,
    family_threshold,
    standard_scores,
)
from moecli.analysis.vocabulary import Vocabulary, VocabularyTest

POSITION = "position"
# Of a label with more values the most frequent are taken.
MOST_VALUES = 50
SHUFFLES = 100


@dataclass(frozen=True, slots=True)
class LayerSpecialisation:
    """One label in one layer. `share`, `chance`, `low`, `high` and `special` are [V][E]."""

    layer: int
    mutual_information: float
    """Of the label and the expert of first choice, in nats."""
    nmi: float
    """The same over the most that it could be, the smaller of the two entropies."""
    nmi_null: Null
    nmi_corrected: float
    """With what chance gives taken off both: 0 is chance, 1 the most there is."""
    p_value: float
    """Of the mutual information, family-wise over all that the report claims of labels and token ids."""
    significant: bool
    share_of_tokens: list[list[float]]
    """Of the value's tokens, those that the expert ran for (OLMoE's convention); sums to top_k, less what was dropped or not sampled."""
    share_of_assignments: list[list[float]]
    """Of the value's (token, expert) pairs, the expert's (Mixtral's convention); sums to 1."""
    chance: list[list[float]]
    """Of share_of_tokens, the mean over exchanged documents."""
    low: list[list[float]]
    high: list[list[float]]
    special: list[list[int]]
    """-1 or 1 where share_of_tokens is below or above chance, family-wise over all that the report claims; else 0."""


@dataclass(frozen=True, slots=True)
class Specialisation:
    """One label in all layers."""

    label: str
    values: list[str]
    counts: list[int]
    """Tokens of each value."""
    too_rare: int
    """Values left out, for they have fewer than min_count tokens or are beyond the 50 most frequent."""
    min_count: int
    permutations: int
    documents: int
    layers: list[LayerSpecialisation]


@dataclass(frozen=True, slots=True)
class Specialisations:
    labels: list[Specialisation]
    vocabulary: list[Vocabulary]


def specialise(
    sample: RoutingSample, kinds: Sequence[str], *, min_count: int, num_shuffles: int = SHUFFLES, seed: int = 0
) -> Specialisations:
    """Tests every label in every layer against exchanged documents, all with the same shuffles.

    All that is claimed (that a label or the token ids matter in a layer, that a value's share is beyond chance) is one family: on routing
    that has nothing to do with the labels anything is claimed with probability REPORT_ERROR.

    Labels with fewer than two values that are frequent enough are left out, and everything where there is one document: nothing can be
    exchanged then.

    Args:
        sample: of one or more tokens.
        kinds: names of labels in the sample, or "position".
        min_count: tokens that a value, or a token id, needs.
        num_shuffles: of the documents.
        seed: of the shuffles.
    """
    if sample.num_documents < 2:
        return Specialisations([], [])
    pairs = {layer: ExpertPairs(experts_NK, sample.num_experts[layer]) for layer, experts_NK in sample.experts.items()}
    every_test = [_LabelTest(sample, pairs, kind, min_count) for kind in kinds]
    tests = [test for test in every_test if len(test.kept) > 1]
    words = VocabularyTest(sample.ids_N, pairs, min_count)
    for shuffle in document_shuffles(sample.documents_N, num_shuffles, seed):
        for test in tests:
            test.add(shuffle)
        words.add(shuffle)
    information_scores = [standard_scores(np.asarray(test.information[layer])) for test in tests for layer in sample.experts]
    information_scores += words.scores()
    cell_scores = [np.abs(test.cell_scores(layer)) for test in tests for layer in sample.experts]
    largest_R = _largest(information_scores, num_shuffles + 1)
    threshold = family_threshold(_largest(cell_scores, num_shuffles + 1), REPORT_ERROR / KINDS_OF_CLAIMS)
    return Specialisations(
        labels=[test.reduce(largest_R, threshold, num_shuffles) for test in tests],
        vocabulary=words.reduce(largest_R),
    )


def position_labels(positions_N: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """The positions 0, 1, 2-3, 4-7, ... as a label: numbers from 1, and their names, of which number 0 is unlabelled."""
    numbers_N = np.frexp(positions_N)[1].astype(np.int64) + 1
    bounds = [(0, 0), (1, 1), *((1 << power, (2 << power) - 1) for power in range(1, 32))]
    names = tuple(str(first) if first == last else f"{first}-{last}" for first, last in bounds)
    return numbers_N, ("", *names[: int(numbers_N.max())])


def mutual_information(table_VE: np.ndarray) -> float:
    """Of the two margins of a table of counts, in nats; 0 for an empty one."""
    total = table_VE.sum()
    if total == 0:
        return 0.0
    joint_VE = table_VE / total
    independent_VE = joint_VE.sum(axis=1, keepdims=True) * joint_VE.sum(axis=0, keepdims=True)
    is_there_VE = joint_VE > 0
    return float((joint_VE[is_there_VE] * np.log(joint_VE[is_there_VE] / independent_VE[is_there_VE])).sum())


def entropy_of(counts: np.ndarray) -> float:
    """In nats; 0 for nothing."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum())


class _LabelTest:
    """Adds up what one label gives in the text and in each of its shuffles."""

    def __init__(self, sample: RoutingSample, pairs: dict[int, ExpertPairs], kind: str, min_count: int) -> None:
        is_position = kind not in sample.labels
        assert not is_position or kind == POSITION
        labels_N, names = position_labels(sample.positions_N) if is_position else (sample.labels[kind], sample.label_names[kind])
        self.kind, self.min_count, self.num_documents = kind, min_count, sample.num_documents
        counts = np.bincount(labels_N, minlength=len(names))
        by_count = np.argsort(-counts[1:], kind="stable") + 1
        self.kept = sorted(number for number in by_count[:MOST_VALUES] if counts[number] >= min_count)
        self.names = [names[number] for number in self.kept]
        self.counts = counts[self.kept]
        self.too_rare = int((counts[1:] > 0).sum()) - len(self.kept)
        # Rows of the tables: 0 for all tokens that don't count, then the values that are kept.
        rows = np.zeros(len(names), dtype=np.int64)
        rows[self.kept] = np.arange(1, len(self.kept) + 1)
        self._rows_N = rows[labels_N]
        self._positions_N = sample.positions_N if is_position else None
        self._rows_of_position = rows[position_labels(np.arange(sample.positions_N.max() + 1))[0]] if is_position else None
        self._pairs = pairs
        self.tables: dict[int, np.ndarray] = {}
        self.first_tables: dict[int, np.ndarray] = {}
        self.shares: dict[int, list[np.ndarray]] = {layer: [] for layer in pairs}
        self.information: dict[int, list[float]] = {layer: [] for layer in pairs}

    def add(self, shuffle: Shuffle) -> None:
        """Takes the text itself first, then shuffles of it."""
        rows_N = self._shuffled_rows(shuffle)
        counts_V = np.bincount(rows_N, minlength=len(self.kept) + 1)[1:]
        for layer, pairs in self._pairs.items():
            table_VE, first_VE = pairs.count(rows_N, len(self.kept)), pairs.count_first(rows_N, len(self.kept))
            self.tables.setdefault(layer, table_VE)
            self.first_tables.setdefault(layer, first_VE)
            shares_VE = table_VE / np.maximum(1, counts_V)[:, None]
            self.shares[layer].append(np.where(counts_V[:, None] > 0, shares_VE, pairs.token_share_E))
            self.information[layer].append(mutual_information(first_VE))

    def cell_scores(self, layer: int) -> np.ndarray:
        """float [R, V, E]. A count is taken to be uncertain by 1 at least."""
        return standard_scores(np.asarray(self.shares[layer]), 1 / self.counts[:, None] ** 2)

    def _shuffled_rows(self, shuffle: Shuffle) -> np.ndarray:
        if self._positions_N is None or self._rows_of_position is None:
            return self._rows_N[shuffle.lender_N]
        # A position says nothing of the document: what is random of it is where in the sequences the document came to lie.
        return self._rows_of_position[(self._positions_N + shuffle.shift_N) % len(self._rows_of_position)]

    def reduce(self, largest_R: np.ndarray, threshold: float, num_shuffles: int) -> Specialisation:
        layers = [self._reduce_layer(layer, largest_R, threshold) for layer in self._pairs]
        counts = [int(count) for count in self.counts]
        return Specialisation(self.kind, self.names, counts, self.too_rare, self.min_count, num_shuffles, self.num_documents, layers)

    def _reduce_layer(self, layer: int, largest_R: np.ndarray, threshold: float) -> LayerSpecialisation:
        table_VE, first_VE = self.tables[layer], self.first_tables[layer]
        shares_RVE, information_R = np.asarray(self.shares[layer]), np.asarray(self.information[layer])
        most = min(entropy_of(first_VE.sum(axis=0)), entropy_of(first_VE.sum(axis=1)))
        nmi_R = information_R / most if most > 0 else np.zeros_like(information_R)
        null = Null.of(nmi_R[1:])
        scores_VE = self.cell_scores(layer)[0]
        low_VE, high_VE = np.quantile(shares_RVE[1:], INTERVAL, axis=0)
        p_value = family_p_value(float(standard_scores(information_R)[0]), largest_R)
        return LayerSpecialisation(
            layer=layer,
            mutual_information=float(information_R[0]),
            nmi=float(nmi_R[0]),
            nmi_null=null,
            nmi_corrected=float((nmi_R[0] - null.mean) / (1 - null.mean)) if null.mean < 1 else 0.0,
            p_value=p_value,
            significant=p_value <= REPORT_ERROR,
            share_of_tokens=shares_RVE[0].tolist(),
            share_of_assignments=(table_VE / np.maximum(1, table_VE.sum(axis=1, keepdims=True))).tolist(),
            chance=shares_RVE[1:].mean(axis=0).tolist(),
            low=low_VE.tolist(),
            high=high_VE.tolist(),
            special=np.where(np.abs(scores_VE) > threshold, np.sign(scores_VE), 0).astype(int).tolist(),
        )


def _largest(scores: Sequence[np.ndarray], num_texts: int) -> np.ndarray:
    """float [R]: the largest of all scores of each text."""
    flat = [scores_R.reshape(num_texts, -1) for scores_R in scores if scores_R.size]
    return np.concatenate(flat, axis=1).max(axis=1) if flat else np.zeros(num_texts)
