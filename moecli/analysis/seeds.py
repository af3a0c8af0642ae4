"""What a few runs that differ in their seed tell: a mean, how sure it is, and whether a difference is more than chance.

Knows numbers, one per seed. Must not know what they measure.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A figure over seeds."""

    mean: float
    ci95: tuple[float, float] | None
    """Student-t interval (n - 1 degrees of freedom) that covers the mean over all seeds in 95 % of such experiments, if the figure is
    spread normally over seeds; None with one seed. It says nothing of other texts or recipes."""
    per_seed: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "ci95": None if self.ci95 is None else list(self.ci95), "per_seed": list(self.per_seed)}


def seed_mean(per_seed: Sequence[float]) -> SeedMean:
    """Mean and 95 % interval of one number or more. Numbers that are all the same give the interval of no width."""
    mean = statistics.fmean(per_seed)
    if len(per_seed) < 2:
        return SeedMean(mean, None, tuple(per_seed))
    if min(per_seed) == max(per_seed):
        return SeedMean(per_seed[0], (per_seed[0], per_seed[0]), tuple(per_seed))
    half = float(stdtrit(len(per_seed) - 1, (1 + CONFIDENCE) / 2)) * _standard_error(per_seed)
    return SeedMean(mean, (mean - half, mean + half), tuple(per_seed))


def geometric_seed_mean(per_seed: Sequence[float]) -> SeedMean:
    """The same of factors, all above 0: the mean and the interval of their logarithms, brought back.

    Twice as fast and half as fast make 1; exchanging what is compared turns mean and interval upside down.
    """
    if min(per_seed) == max(per_seed):
        return seed_mean(per_seed)
    logs = seed_mean([math.log(factor) for factor in per_seed])
    assert logs.ci95 is not None
    return SeedMean(math.exp(logs.mean), (math.exp(logs.ci95[0]), math.exp(logs.ci95[1])), tuple(per_seed))


def paired_p_value(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test, from the difference of each pair: how often chance alone makes a mean at least so far from 0.

    None with one pair. Differences that are all the same have no spread to judge by: 1 if they are 0, which is no evidence of a
    difference, else 0, the limit as the spread shrinks.
    """
    if len(differences) < 2:
        return None
    if min(differences) == max(differences):
        return 1.0 if differences[0] == 0 else 0.0
    t = statistics.fmean(differences) / _standard_error(differences)
    return float(2 * stdtr(len(differences) - 1, -abs(t)))


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))
