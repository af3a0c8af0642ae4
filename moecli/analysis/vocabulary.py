"""Which token ids the experts specialise in (OLMoE, arXiv 2409.02060, eq. 8), beside chance and with a minimum count.

Knows ids and (token, expert) pairs. Must not know texts: ids stand for tokens here.

Shape letters: N tokens, E experts, V token ids that are frequent enough, R the text itself and its shuffles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moecli.analysis.pairs import ExpertPairs
from moecli.analysis.shuffles import FAMILY_ERROR, Null, family_p_value, standard_scores

# Token ids that are named per layer.
MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class FavouriteToken:
    """A token id and the expert that runs for it the most."""

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
    """The same over shuffled documents."""
    p_value: float
    """Family-wise over all labels and layers."""
    significant: bool
    top: list[FavouriteToken]
    """The ids whose share is the most standard deviations above chance, for that many tokens drawn at random."""


class VocabularyTest:
    """Adds up, for every layer, what the token ids give in the text and in each of its shuffles."""

    def __init__(self, ids_N: np.ndarray, pairs: dict[int, ExpertPairs], min_count: int) -> None:
        ids, inverse_N, counts = np.unique(ids_N, return_inverse=True, return_counts=True)
        is_frequent = counts >= min_count
        self.min_count = min_count
        self.ids_V, self.counts_V = ids[is_frequent], counts[is_frequent]
        rows = np.where(is_frequent, np.cumsum(is_frequent), 0)  # row 0 for all that are too rare
        self._rows_N = rows[inverse_N]
        self._pairs = pairs
        self._shares: dict[int, np.ndarray] = {}
        self._means: dict[int, list[float]] = {layer: [] for layer in pairs}

    def add(self, source_N: np.ndarray) -> None:
        """Takes the text itself first, then shuffles of it."""
        if not len(self.ids_V):
            return
        rows_N = self._rows_N[source_N]
        for layer, pairs in self._pairs.items():
            shares_VE = pairs.count(rows_N, len(self.ids_V)) / self.counts_V[:, None]
            self._shares.setdefault(layer, shares_VE)
            self._means[layer].append(float(shares_VE.max(axis=1).mean()))

    def scores(self) -> list[np.ndarray]:
        """float [R] per layer."""
        return [standard_scores(np.asarray(means)) for means in self._means.values() if means]

    def reduce(self, largest_R: np.ndarray) -> list[Vocabulary]:
        """All layers; none where no id is frequent enough."""
        return [self._reduce_layer(layer, largest_R) for layer in self._pairs] if len(self.ids_V) else []

    def _reduce_layer(self, layer: int, largest_R: np.ndarray) -> Vocabulary:
        means_R = np.asarray(self._means[layer])
        p_value = family_p_value(float(standard_scores(means_R)[0]), largest_R)
        return Vocabulary(
            layer=layer,
            token_types=len(self.ids_V),
            min_count=self.min_count,
            mean_max_share=float(means_R[0]),
            null=Null.of(means_R[1:]),
            p_value=p_value,
            significant=p_value <= FAMILY_ERROR,
            top=self._favourites(layer),
        )

    def _favourites(self, layer: int) -> list[FavouriteToken]:
        shares_VE, chance_E = self._shares[layer], self._pairs[layer].token_share_E
        spread_VE = np.sqrt(np.maximum(chance_E * (1 - chance_E), 1e-12) / self.counts_V[:, None])
        scores_VE = (shares_VE - chance_E) / spread_VE
        best_V = scores_VE.argmax(axis=1)
        order = np.argsort(-scores_VE.max(axis=1), kind="stable")[:MOST_NAMED]
        return [
            FavouriteToken(
                id=int(self.ids_V[place]),
                count=int(self.counts_V[place]),
                expert=int(best_V[place]),
                share=float(shares_VE[place, best_V[place]]),
                chance=float(chance_E[best_V[place]]),
            )
            for place in order
        ]
