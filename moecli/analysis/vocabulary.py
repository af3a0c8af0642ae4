"""Which token ids the experts specialise in (OLMoE, arXiv 2409.02060, eq. 8), beside chance and with a minimum count.

Knows ids and (token, expert) pairs. Must not know texts: ids stand for tokens here.

Shape letters: N tokens, E experts, U token ids, V those of them that are frequent enough, R the text itself and its shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moecli.analysis.pairs import ExpertPairs
from moecli.analysis.shuffles import REPORT_ERROR, Null, Shuffle, family_p_value, standard_scores

# Token ids that are named per layer.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class FavouriteToken:
    """A token id and the expert that is the furthest above chance for it."""

    id: int
    count: int
    expert: int
    share: float
    """Of the tokens with this id, those that the expert ran for."""
    chance: float
    """Of all tokens, those that the expert ran for."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One layer. Without a minimum count every id that occurs once would count as perfectly specialised."""

    layer: int
    token_types: int
    """Ids with `min_count` tokens or more."""
    min_count: int
    mean_max_share: float
    """Mean over these ids of the share of the expert that runs for it the most."""
    null: Null
    """The same over shuffled documents, of the two ways of shuffling the one that gives more."""
    p_value: float
    """Against both, the larger one; family-wise over all that the report claims of labels and token ids."""
    significant: bool
    top: list[FavouriteToken]
    """The ids whose share is the most standard deviations above chance, for that many tokens drawn at random."""


class VocabularyTest:
    """Adds up, for every layer, what the token ids give in the text and in each of its shuffles.

    The share of a favourite is larger for an id with a small count, whatever the routing. Exchanged documents change the counts, laid ones
    don't; but laid ones forget that the words of one document share its routing. So a claim has to hold against both.
    """

    def __init__(self, ids_N: np.ndarray, pairs: dict[int, ExpertPairs], min_count: int) -> None:
        self.min_count = min_count
        self._ids_U, self._places_N, self._counts_U = np.unique(ids_N, return_inverse=True, return_counts=True)
        self._pairs = pairs
        self._shares: dict[int, np.ndarray] = {}
        self._means: dict[int, list[tuple[float, float]]] = {layer: [] for layer in pairs}

    def add(self, shuffle: Shuffle) -> None:
        """Takes the text itself first, then shuffles of it."""
        exchanged, laid = self._all_shares(shuffle.lender_N), self._all_shares(shuffle.laid_N)
        for layer in self._pairs:
            self._shares.setdefault(layer, laid[layer])
            self._means[layer].append((_mean_largest(exchanged[layer]), _mean_largest(laid[layer])))

    def _all_shares(self, lender_N: np.ndarray) -> dict[int, np.ndarray]:
        """[V, E] per layer, of the ids that are frequent enough with these lenders: the text's own would be rarer than in the text."""
        places_N = self._places_N[lender_N]
        counts_U = np.bincount(places_N, minlength=len(self._ids_U))
        is_frequent_U = counts_U >= self.min_count
        rows_N = np.where(is_frequent_U, np.cumsum(is_frequent_U), 0)[places_N]  # row 0 for all that are too rare
        counts_V = counts_U[is_frequent_U]
        return {layer: pairs.count(rows_N, len(counts_V)) / counts_V[:, None] for layer, pairs in self._pairs.items()}

    def scores(self) -> list[np.ndarray]:
        """float [R, 2] per layer; none where no id of the text is frequent enough."""
        return [standard_scores(np.asarray(means)) for means in self._means.values()] if self._has_any else []

    @property
    def _has_any(self) -> bool:
        return bool((self._counts_U >= self.min_count).any())

    def reduce(self, largest_R: np.ndarray) -> list[Vocabulary]:
        """All layers; none where no id of the text is frequent enough."""
        return [self._reduce_layer(layer, largest_R) for layer in self._pairs] if self._has_any else []

    def _reduce_layer(self, layer: int, largest_R: np.ndarray) -> Vocabulary:
        means_R2 = np.asarray(self._means[layer])
        p_value = family_p_value(float(standard_scores(means_R2)[0].min()), largest_R)
        return Vocabulary(
            layer=layer,
            token_types=len(self._shares[layer]),
            min_count=self.min_count,
            mean_max_share=float(means_R2[0, 0]),
            null=Null.of(means_R2[1:, means_R2[1:].mean(axis=0).argmax()]),
            p_value=p_value,
            significant=p_value <= REPORT_ERROR,
            top=self._favourites(layer),
        )

    def _favourites(self, layer: int) -> list[FavouriteToken]:
        shares_VE, chance_E = self._shares[layer], self._pairs[layer].token_share_E
        is_frequent_U = self._counts_U >= self.min_count
        ids_V, counts_V = self._ids_U[is_frequent_U], self._counts_U[is_frequent_U]
        spread_VE = np.sqrt(np.maximum(chance_E * (1 - chance_E), 1e-12) / counts_V[:, None])
        scores_VE = (shares_VE - chance_E) / spread_VE
        best_V = scores_VE.argmax(axis=1)
        order = np.argsort(-scores_VE.max(axis=1), kind="stable")[:MOST_NAMED]
        return [
            FavouriteToken(
                id=int(ids_V[place]),
                count=int(counts_V[place]),
                expert=int(best_V[place]),
                share=float(shares_VE[place, best_V[place]]),
                chance=float(chance_E[best_V[place]]),
            )
            for place in order
        ]


def _mean_largest(shares_VE: np.ndarray) -> float:
    """Mean over ids of the share of the expert that runs for it the most; 1, the largest there is, without any id."""
    return float(shares_VE.max(axis=1).mean()) if len(shares_VE) else 1.0
