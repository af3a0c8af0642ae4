"""How early in training the experts of a token are settled: router saturation (OLMoE, arXiv 2409.02060, eq. 5), beside what chance gives.

Knows RoutingSamples of one text. Must not know checkpoints or how the numbers are shown.

Shape letters: N tokens, K choices, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moecli.analysis.sample import RoutingSample


@dataclass(frozen=True, slots=True)
class Saturation:
    """One layer; all lists go by step. Tokens without a first choice at the last step are left out."""

    layer: int
    steps: list[int]
    """Of training, ascending."""
    top_k: list[float]
    """Mean share of a token's experts at the last step that it has at this step already; 1 at the last."""
    top_k_chance: list[float]
    """The same if the two routings were independent, each with its load; k / E where that is even."""
    first: list[float]
    """Share of the tokens with the first choice of the last step; 1 at the last."""
    first_chance: list[float]


def saturation(samples: dict[int, RoutingSample]) -> list[Saturation]:
    """All layers in which some token has a first choice at the last step.

    Args:
        samples: from the step to the sample, all of the same model and the same tokens; one or more.
    """
    steps = sorted(samples)
    last = samples[steps[-1]]
    for sample in samples.values():
        assert np.array_equal(sample.ids_N, last.ids_N), "samples of different tokens"
        assert sample.num_experts == last.num_experts, "samples of different models"
    found = []
    for layer, num_experts in last.num_experts.items():
        is_counted_N = last.experts[layer][:, 0] >= 0
        if is_counted_N.any():
            routings = [samples[step].experts[layer][is_counted_N] for step in steps]
            found.append(_layer(layer, steps, routings, num_experts))
    return found


def _layer(layer: int, steps: list[int], routings: list[np.ndarray], num_experts: int) -> Saturation:
    last_NK = routings[-1]
    is_expert_NK = last_NK >= 0
    last_part_E = _mean_part(last_NK, is_expert_NK / is_expert_NK.sum(axis=1, keepdims=True), num_experts)
    last_first_E = _ran_share(last_NK[:, :1], num_experts)
    return Saturation(
        layer=layer,
        steps=steps,
        top_k=[_common_part(experts_NK, last_NK) for experts_NK in routings],
        top_k_chance=[float(_ran_share(experts_NK, num_experts) @ last_part_E) for experts_NK in routings],
        first=[float((experts_NK[:, 0] == last_NK[:, 0]).mean()) for experts_NK in routings],
        first_chance=[float(_ran_share(experts_NK[:, :1], num_experts) @ last_first_E) for experts_NK in routings],
    )


def _common_part(experts_NK: np.ndarray, last_NK: np.ndarray) -> float:
    """Mean over tokens of the share of the last step's experts that the other step has too."""
    common_N, of_N = np.zeros(len(last_NK)), np.zeros(len(last_NK))
    for last_N in last_NK.T:
        is_expert_N = last_N >= 0
        common_N += is_expert_N & (experts_NK == last_N[:, None]).any(axis=1)
        of_N += is_expert_N
    return float((common_N / of_N).mean())


def _ran_share(experts_NK: np.ndarray, num_experts: int) -> np.ndarray:
    """float64 [E]: share of the tokens that each expert ran for."""
    return _mean_part(experts_NK, np.ones(experts_NK.shape), num_experts)


def _mean_part(experts_NK: np.ndarray, parts_NK: np.ndarray, num_experts: int) -> np.ndarray:
    """float64 [E]: mean over tokens of the part that each expert has of one."""
    is_expert_NK = experts_NK >= 0
    return np.bincount(experts_NK[is_expert_NK], parts_NK[is_expert_NK], minlength=num_experts) / len(experts_NK)
