"""Times of several calls that take turns, so that their ratios hold on a machine that others use too.

Knows clocks and calls. Must not know what is called.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence

# From a name to its seconds, one for each round.
Seconds = dict[str, list[float]]


def number_of_rounds(text: str) -> int:
    """Of the command line: quartiles take two at least."""
    rounds = int(text)
    if rounds < 2:
        raise argparse.ArgumentTypeError("2 or more")
    return rounds


def take_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """The seconds that each call says it took, in every round. The first round does not count."""
    measured: Seconds = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            took = call()
            if number:
                measured[name].append(took)
    return measured


def ratios(measured: Seconds, name: str, over: str) -> list[float]:
    """Of one call to another, round by round."""
    return [one / other for one, other in zip(measured[name], measured[over], strict=True)]


def spread(values: Sequence[float]) -> str:
    """Median, and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def milliseconds(measured: Seconds, name: str) -> float:
    return 1e3 * statistics.median(measured[name])
