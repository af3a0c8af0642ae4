"""Paths of tokens through the layers, by first choice: which are travelled the most, and how tokens move from layer to layer.

Knows a RoutingSample. Must not know models, labels or how the numbers are shown.

Shape letters: N tokens, L layers that route, E experts of one layer, F of the next, D distinct paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from moecli.analysis.sample import RoutingSample


@dataclass(frozen=True, slots=True)
class Path:
    """One expert per layer."""

    experts: list[int]
    count: int
    """Tokens that took it."""
    share: float
    chance: float
    """Of the tokens, those that would take it if the layers chose independently: the product of the experts' shares of first choices."""


@dataclass(frozen=True, slots=True)
class Transition:
    """From a layer that routes to the next one that does."""

    from_layer: int
    to_layer: int
    share: list[list[float]]
    """Share of all tokens by expert here and expert there; sums to 1."""


@dataclass(frozen=True, slots=True)
class Paths:
    """All figures are of the tokens that have a first choice in every layer that routes."""

    layers: list[int]
    distinct: int
    """Different paths that were taken."""
    tokens: int
    top: list[Path]
    """The most travelled, most first; of paths travelled alike the one with the smaller expert numbers in the earlier layers first."""
    transitions: list[Transition]


def paths(sample: RoutingSample, most: int = 20) -> Paths | None:
    """None where fewer than two layers route, or no token has a first choice in all that do (each was dropped somewhere).

    Args:
        sample: as collected.
        most: paths to name.
    """
    if len(sample.experts) < 2:
        return None
    layers = sorted(sample.experts)
    firsts_NL = np.stack([sample.experts[layer][:, 0] for layer in layers], axis=1).astype(np.int64)
    firsts_NL = firsts_NL[(firsts_NL >= 0).all(axis=1)]
    num_tokens = len(firsts_NL)
    if not num_tokens:
        return None
    sizes = [sample.num_experts[layer] for layer in layers]
    path_N = _numbers(firsts_NL, sizes)
    _, example_D, counts_D = np.unique(path_N, return_index=True, return_counts=True)
    shares = [np.bincount(first_N, minlength=size) / num_tokens for first_N, size in zip(firsts_NL.T, sizes, strict=True)]
    top = []
    for place in np.argsort(-counts_D, kind="stable")[:most]:
        experts = firsts_NL[example_D[place]].tolist()
        chance = np.prod([share_E[expert] for share_E, expert in zip(shares, experts, strict=True)])
        top.append(Path(experts, int(counts_D[place]), float(counts_D[place] / num_tokens), float(chance)))
    return Paths(layers, len(counts_D), num_tokens, top, _transitions(firsts_NL, layers, sizes))


def _numbers(firsts_NL: np.ndarray, sizes: list[int]) -> np.ndarray:
    """int64 [N]: the path of each token as a number; numbers are in the order of the experts of the first layer, then the second, ..."""
    # Numbered anew from 0 after every layer, so that no number exceeds N times E, however many layers there are.
    path_N = np.zeros(len(firsts_NL), dtype=np.int64)
    for first_N, size in zip(firsts_NL.T, sizes, strict=True):
        path_N = np.unique(path_N * size + first_N, return_inverse=True)[1]
    return path_N


def _transitions(firsts_NL: np.ndarray, layers: list[int], sizes: list[int]) -> list[Transition]:
    found = []
    for here, there in pairwise(range(len(layers))):
        codes_N = firsts_NL[:, here] * sizes[there] + firsts_NL[:, there]
        counts_EF = np.bincount(codes_N, minlength=sizes[here] * sizes[there]).reshape(sizes[here], sizes[there])
        found.append(Transition(layers[here], layers[there], (counts_EF / len(firsts_NL)).tolist()))
    return found
