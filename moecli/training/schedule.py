"""The learning rate over the steps, as a pure function of the step.

Knows steps. Must not know the optimizer.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

from moecli.config import Fraction, KindConfig


class ScheduleConfig(KindConfig):
    """Base of the schedules: a linear warm-up, then a shape of their own."""

    warmup_fraction: Fraction = 0.05
    """The first part of the steps, in which the rate rises in a straight line to its peak."""
    min_lr_fraction: Fraction = 0.1
    """The rate that it falls to at the end, as a part of the peak."""

    def factor(self, step: int, num_steps: int) -> float:
        """The part of the peak rate for one step, counted from 0."""
        warmup_steps = round(self.warmup_fraction * num_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return self.factor_after_warmup((step - warmup_steps) / max(1, num_steps - 1 - warmup_steps))

    @abstractmethod
    def factor_after_warmup(self, progress: float) -> float:
        """The part of the peak rate when so much (0 to 1) of the steps after the warm-up is done."""


class CosineConfig(ScheduleConfig):
    """Half a cosine from the peak to the minimum (arXiv 1608.03983, eq. 5, without restarts)."""

    kind: Literal["cosine"] = "cosine"

    def factor_after_warmup(self, progress: float) -> float:
        return self.min_lr_fraction + (1 - self.min_lr_fraction) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


class WarmupStableDecayConfig(ScheduleConfig):
    """The peak until the last part of the steps, then a straight line to the minimum (MiniCPM, arXiv 2404.06395)."""

    kind: Literal["wsd"] = "wsd"
    decay_fraction: Fraction = 0.2
    """The last part of the steps after the warm-up, in which the rate falls."""

    def factor_after_warmup(self, progress: float) -> float:
        if progress <= 1 - self.decay_fraction:
            return 1.0
        return 1 - (1 - self.min_lr_fraction) * (min(progress, 1.0) - (1 - self.decay_fraction)) / self.decay_fraction


SCHEDULES: dict[str, type[ScheduleConfig]] = {
    "cosine": CosineConfig,
    "wsd": WarmupStableDecayConfig,
}
