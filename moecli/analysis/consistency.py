"""How often a token goes to the expert of the token before it (Mixtral, arXiv 2401.04088, table 5), beside what chance gives.

Knows a RoutingSample. Must not know models, labels or how the numbers are shown.

Shape letters: N tokens, K choices, P pairs of consecutive tokens, C the first choice and the second, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moecli.analysis.sample import RoutingSample
from moecli.analysis.shuffles import Null

# Random exchanges of the pairs' second tokens: so many shuffles, and of each so many rotations, which cost a tenth of a shuffle.
SHUFFLES, ROTATIONS = 20, 10


@dataclass(frozen=True, slots=True)
class Consistency:
    """One layer."""

    layer: int
    pairs: int
    """Of a token and the one before it in its sequence; both have a first choice."""
    first: float
    """Share of the pairs with the same first choice."""
    first_chance: Null
    """The same where the second token is that of a pair drawn at random."""
    first_or_second: float | None
    """Share of the pairs that have an expert in common among the first two choices of each; None in a layer with one choice."""
    first_or_second_chance: Null | None


def consistency(sample: RoutingSample, seed: int = 0) -> list[Consistency]:
    """All layers that have such a pair.

    Chance knows the load and no more: what neighbours have in common because they are of one document counts as consistency.

    Args:
        sample: as collected.
        seed: of the random exchanges.
    """
    next_tokens_P = np.flatnonzero(sample.follows_N[1:]) + 1
    found = []
    for layer, experts_NK in sample.experts.items():
        choices_CN = np.ascontiguousarray(experts_NK[:, :2].T)
        here_CP, next_CP = choices_CN[:, next_tokens_P - 1], choices_CN[:, next_tokens_P]
        is_pair_P = (here_CP[0] >= 0) & (next_CP[0] >= 0)
        if is_pair_P.any():
            found.append(_layer(layer, here_CP[:, is_pair_P], next_CP[:, is_pair_P], np.random.default_rng([seed, layer])))
    return found


def _layer(layer: int, here_CP: np.ndarray, next_CP: np.ndarray, rng: np.random.Generator) -> Consistency:
    # No second expert here must not equal no second expert there.
    here_CP = np.where(here_CP >= 0, here_CP, -2)
    first, either = _shares(here_CP, next_CP)
    null_R2 = np.array([_shares(here_CP, exchanged_CP) for exchanged_CP in _exchanges(next_CP, rng)])
    has_second = len(here_CP) > 1
    return Consistency(
        layer=layer,
        pairs=here_CP.shape[1],
        first=first,
        first_chance=Null.of(null_R2[:, 0]),
        first_or_second=either if has_second else None,
        first_or_second_chance=Null.of(null_R2[:, 1]) if has_second else None,
    )


def _shares(here_CP: np.ndarray, next_CP: np.ndarray) -> tuple[float, float]:
    """Of the pairs, those with the same first choice, and those with any choice in common."""
    is_same_P = here_CP[0] == next_CP[0]
    is_any_P = np.logical_or.reduce([here_P == next_P for here_P in here_CP for next_P in next_CP])
    return float(np.count_nonzero(is_same_P) / len(is_same_P)), float(np.count_nonzero(is_any_P) / len(is_any_P))


def _exchanges(next_CP: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """next_CP in a random order of the pairs, SHUFFLES times ROTATIONS times."""
    num_pairs = next_CP.shape[1]
    for _ in range(SHUFFLES):
        shuffled_CP = next_CP[:, rng.permutation(num_pairs)]
        twice_CP = np.concatenate([shuffled_CP, shuffled_CP], axis=1)
        for start in rng.integers(num_pairs, size=ROTATIONS):
            yield twice_CP[:, start : start + num_pairs]
