"""Times of several calls that take turns, so that their ratios hold on a machine that others use too.

Knows clocks and calls. Must not know what is called.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

# From a name to its seconds, one for each round.
Seconds = dict[str, list[float]]


def number_of_rounds(text: str) -> int:
    """Of the command line: quartiles take two at least."""
    rounds = int(text)
    if rounds < 2:
        raise argparse.ArgumentTypeError("2 or more")
    return rounds


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Until the device has done what the call asks of it. A GPU is asked ten times in a row, and the mean is taken: in a model too, it is
    still busy with what came before while the next operations are called."""
    times = 10 if device.type == "cuda" else 1
    _wait_for(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    _wait_for(device)
    return (time.perf_counter() - started) / times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> str:
    """What seconds depend on, in words."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}"


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
