"""How far a comparison is and how long it will still take.

Knows FLOPs and a clock. Must not know what is trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from moecli.workflows.events import WorkDone


@dataclass(slots=True)
class _Measured:
    """What an arm has taken since the comparison was begun, by the clock on the wall."""

    seconds: float = 0.0
    flops: float = 0.0


class ComparisonProgress:
    """Follows the runs of a comparison one after the other.

    Args:
        flops_of_arm: training FLOPs of one run of each arm.
        runs: (arm, share that is done already) of every run.
        clock: seconds.
    """

    def __init__(
        self, flops_of_arm: dict[str, float], runs: Iterable[tuple[str, float]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._flops_of_arm = dict(flops_of_arm)
        self._runs = list(runs)
        self._clock = clock
        self._measured = {arm: _Measured() for arm in flops_of_arm}
        self._number, self._last_look = 0, clock()

    def set_flops(self, arm: str, flops: float) -> None:
        """The length of an arm has become known."""
        self._flops_of_arm[arm] = flops

    def begin(self, number: int) -> None:
        """Run number `number`, from 0, begins. Time before it belongs to no arm."""
        self._number, self._last_look = number, self._clock()

    def goes_on_from(self, share: float) -> None:
        """So much of the present run was done before it was interrupted."""
        self._runs[self._number] = (self._runs[self._number][0], share)

    def reaches(self, share: float) -> None:
        """So much of the present run is done."""
        arm, before = self._runs[self._number]
        now = self._clock()
        self._measured[arm].seconds += now - self._last_look
        self._measured[arm].flops += (share - before) * self._flops_of_arm[arm]
        self._last_look = now
        self._runs[self._number] = (arm, share)

    def work_done(self) -> WorkDone:
        """FLOPs until now. The time left is judged by the seconds per FLOP of each arm, or of all where one has not run yet."""
        total = sum(self._flops_of_arm[arm] for arm, _ in self._runs)
        left = dict.fromkeys(self._flops_of_arm, 0.0)
        for arm, share in self._runs:
            left[arm] += (1 - share) * self._flops_of_arm[arm]
        seconds = [flops * rate for arm, flops in left.items() if flops and (rate := self._seconds_per_flop(arm)) is not None]
        is_known = len(seconds) == sum(flops > 0 for flops in left.values())
        return WorkDone(done=total - sum(left.values()), total=total, seconds_left=sum(seconds) if is_known else None)

    def _seconds_per_flop(self, arm: str) -> float | None:
        own = self._measured[arm]
        if own.flops:
            return own.seconds / own.flops
        flops = sum(measured.flops for measured in self._measured.values())
        return sum(measured.seconds for measured in self._measured.values()) / flops if flops else None
