"""What a difference over seeds says, in a word and in a sentence; a lost comparison as plainly as a won one.

Knows statistics and names. Must not know how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moecli.analysis.seeds import SeedMean

Verdict = Literal["lower", "higher", "undecided"]


@dataclass(frozen=True, slots=True)
class Contest:
    """Two arms and the difference of their final values, first - second: below 0 the first is better."""

    first: str
    second: str
    unit: str
    difference: SeedMean
    p_value: float | None
    leaking: tuple[str, ...] = ()
    """Those of the two that see their future."""

    @property
    def verdict(self) -> Verdict:
        """Lower or higher where the 95 % interval of the difference does not hold 0."""
        if self.difference.ci95 is None or self.difference.ci95[0] <= 0 <= self.difference.ci95[1]:
            return "undecided"
        return "lower" if self.difference.mean < 0 else "higher"

    @property
    def sentence(self) -> str:
        leaks = "".join(f"; {name} sees its future, so its loss can't be reached in generation" for name in self.leaking)
        return self._outcome() + leaks

    def _outcome(self) -> str:
        num_seeds, mean = len(self.difference.per_seed), self.difference.mean
        if not any(self.difference.per_seed):
            return f"{self.first} and {self.second} end equal, with {num_seeds} seed{'s' * (num_seeds > 1)}"
        ends = f"{self.first} ends {_figure(mean)} {self.unit} {_side(mean)} {self.second}"
        if self.difference.ci95 is None:
            return f"{ends} with the one seed that was run, which can't tell a difference from chance"
        low, high = self.difference.ci95
        tested = f"{num_seeds} seeds, paired t-test {_p_value(self.p_value)}"
        if self.verdict == "undecided":
            return f"{ends}, but this is undecided: the 95 % interval goes from {_figure(low)} below to {_figure(high)} above ({tested})"
        nearest, farthest = sorted((abs(low), abs(high)))
        return f"{ends} (95 % interval {_figure(nearest)} to {_figure(farthest)} {_side(mean)}, {tested})"


def _side(difference: float) -> str:
    return "below" if difference < 0 else "above"


def _figure(difference: float) -> str:
    """Four decimals, more where these would not show the first two digits."""
    size = abs(difference)
    return f"{size:.4f}" if size >= 0.001 or size == 0 else f"{size:.2g}"


def _p_value(p_value: float | None) -> str:
    assert p_value is not None
    return "p < 0.0001" if p_value < 0.0001 else f"p = {p_value:.2g}"
