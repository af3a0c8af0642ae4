"""Looks at the figures of a training as they are logged, and says once what goes wrong, with the keys that help.

Knows logged figures. Must not know models, nor wait for a device: it reads what was read anyway.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

# A spike is seven standard deviations above the mean of what was logged before, as the spike score of OLMo 2 counts it
# (arXiv 2501.00656, section 3.1), there over 1,000 steps.
SPIKE_DEVIATIONS = 7.0
LONGEST_MEMORY, SHORTEST_MEMORY = 100, 20
# Lines in a row that have to agree before a collapse is told: one step's load is noise.
LINES = 10
# Tokens pile up: an even share has 0, all tokens at one of E experts sqrt(E - 1).
LARGEST_LOAD_CV = 1.0

SPIKE_KEYS = "training.learning_rate (lower), training.schedule.warmup_fraction (longer), training.clip_norm (smaller)"
BALANCE_KEYS = "training.balance_loss (larger), training.bias_update (for a router with a selection bias), training.learning_rate (lower)"


class TrainingWatch:
    """Takes the lines of metrics.jsonl in their order.

    Args:
        learns_routing: whether there is a router that could do better; where not, only the loss is looked at.
    """

    def __init__(self, *, learns_routing: bool) -> None:
        self._learns_routing = learns_routing
        self._losses: deque[float] = deque(maxlen=LONGEST_MEMORY)
        self._load_cvs: deque[float] = deque(maxlen=LINES)
        self._dead: deque[float] = deque(maxlen=2 * LINES)
        self._told: set[str] = set()

    def look(self, figures: Mapping[str, Any]) -> list[str]:
        """What goes wrong with this line and has not been told before. A line without a training loss says nothing, nor does what should
        be a number in it and isn't: the line may come from a file."""
        looks: dict[str, Callable[[float], str]] = {"loss": self._spike}
        if self._learns_routing:
            looks |= {"load_cv": self._load, "dead_experts": self._dead_experts}
        found = {key: look(figures[key]) for key, look in looks.items() if isinstance(figures.get(key), int | float)}
        new = {kind: text for kind, text in found.items() if text and kind not in self._told}
        self._told |= new.keys()
        return [f"step {figures['step']}: {text}" for text in new.values()]

    def _spike(self, loss: float) -> str:
        before = list(self._losses)
        self._losses.append(loss)
        if len(before) < SHORTEST_MEMORY or not math.isfinite(loss):
            return ""
        mean, deviation = statistics.fmean(before), statistics.pstdev(before)
        if loss <= mean + SPIKE_DEVIATIONS * deviation:
            return ""
        return (
            f"the loss spiked to {loss:.3f}; the {len(before)} losses logged before have mean {mean:.3f} and "
            f"standard deviation {deviation:.3f}. What helps: {SPIKE_KEYS}"
        )

    def _load(self, load_cv: float) -> str:
        self._load_cvs.append(load_cv)
        if len(self._load_cvs) < LINES or min(self._load_cvs) <= LARGEST_LOAD_CV:
            return ""
        return (
            f"few experts take most tokens: the load CV was above {LARGEST_LOAD_CV:g} in {LINES} logged lines. What helps: {BALANCE_KEYS}"
        )

    def _dead_experts(self, dead: float) -> str:
        """Growing: each of the last lines has more dead experts than any of as many lines before. By chance that happens in one of
        184,756 places (20 choose 10) of a row that doesn't grow."""
        self._dead.append(dead)
        lines = list(self._dead)
        if len(lines) < 2 * LINES or min(lines[LINES:]) <= max(lines[:LINES]):
            return ""
        return (
            f"experts die: {min(lines[LINES:])} or more got no token in each of the last {LINES} logged lines, "
            f"{max(lines[:LINES])} or fewer in the {LINES} before. What helps: {BALANCE_KEYS}"
        )
