"""The (token, expert) pairs that ran in a layer, ready to be counted by anything that tokens have.

Knows what a RoutingSample holds of one layer. Must not know labels.

Shape letters: N tokens, E experts, K choices, V rows of a table of counts, A pairs.
"""

from __future__ import annotations

import numpy as np


class ExpertPairs:
    """All pairs of a layer, and those of first choice.

    Args:
        experts_NK: as in RoutingSample.experts; -1 is no expert.
        num_experts: E.
    """

    def __init__(self, experts_NK: np.ndarray, num_experts: int) -> None:
        self.num_experts = num_experts
        self._tokens_A, places_A = np.nonzero(experts_NK >= 0)
        self._experts_A = experts_NK[self._tokens_A, places_A].astype(np.int64)
        is_first_A = places_A == 0
        self._first_tokens_A, self._first_experts_A = self._tokens_A[is_first_A], self._experts_A[is_first_A]
        self._num_tokens = len(experts_NK)

    @property
    def token_share_E(self) -> np.ndarray:
        """Share of the tokens that each expert ran for."""
        return np.bincount(self._experts_A, minlength=self.num_experts) / self._num_tokens

    def count(self, rows_N: np.ndarray, num_rows: int) -> np.ndarray:
        """int64 [V, E] of all pairs by the row of their token, from 1 to num_rows; tokens of row 0 don't count."""
        return self._table(rows_N[self._tokens_A], self._experts_A, num_rows)

    def count_first(self, rows_N: np.ndarray, num_rows: int) -> np.ndarray:
        """The same of first choices alone."""
        return self._table(rows_N[self._first_tokens_A], self._first_experts_A, num_rows)

    def _table(self, rows_A: np.ndarray, experts_A: np.ndarray, num_rows: int) -> np.ndarray:
        flat = np.bincount(rows_A * self.num_experts + experts_A, minlength=(num_rows + 1) * self.num_experts)
        return flat.reshape(num_rows + 1, self.num_experts)[1:]
