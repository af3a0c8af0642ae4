"""When a model has learnt as much as another: the speed-up to equal loss, as the papers on MoE report it.

Knows validation losses and what they had cost by then. Must not know what the cost is: tokens, FLOPs or seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """Validations of one run, in order, at least one."""

    cost: Sequence[float]
    """Spent by each validation, rising: tokens, FLOPs or seconds."""
    value: Sequence[float]
    """Loss found there; less is better."""

    def first_reach(self, level: float) -> float:
        """The cost at which the curve first is at `level` or below, on straight lines between validations; infinity where it never is.

        What happens before the first validation is not known: a curve that begins at or below the level has reached it there.
        """
        if self.value[0] <= level:
            return self.cost[0]
        for index in range(1, len(self.value)):
            before, after = self.value[index - 1], self.value[index]
            if after <= level:
                share = (before - level) / (before - after)
                return self.cost[index - 1] + share * (self.cost[index] - self.cost[index - 1])
        return math.inf

    def is_early(self, level: float) -> bool:
        """Whether it is below the level at the first validation already, so that it has reached it at a cost that is not known."""
        return self.value[0] < level


def equal_level(curve: LearningCurve, other: LearningCurve) -> float:
    """The worse of the two final values, which both have reached."""
    return max(curve.value[-1], other.value[-1])


def speed_up_to_equal_loss(curve: LearningCurve, other: LearningCurve) -> float:
    """How many times less `curve` spends than `other` until both are equally good: above 1 where it is the quicker one.

    The level is `equal_level`: for a curve that ends lower this is the usual "tokens to reach the dense model's final loss" (Switch,
    2101.03961; OLMoE, 2409.02060), and a curve that ends higher gets a number below 1. Exchanging the two gives the reciprocal, and a
    curve against itself gives 1.

    The learning rate of the better model has not decayed when it passes the level, as that of the other has: the number is nearer to 1
    than with a schedule made for the shorter training, whichever of the two is the better one.
    """
    level = equal_level(curve, other)
    return other.first_reach(level) / curve.first_reach(level)
