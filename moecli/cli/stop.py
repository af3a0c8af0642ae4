"""Ctrl-C during long work: finish the step, keep what there is, then leave.

Knows one signal. Must not know what is stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console

AFTER_THIS_STEP = "stopping after this step; Ctrl-C again leaves at once, without saving"


class Stopped(Exception):
    """Ctrl-C ended the work, and what there was of it has been shown: all that is left is the exit code."""


class StopRequest:
    """Turns the first Ctrl-C into a question that the work asks between its steps, and the second into KeyboardInterrupt.

    Before the work has begun (`begin`) and after it (`end`) there is nothing to save, so Ctrl-C interrupts at once.

    Args:
        people: where the first Ctrl-C is answered.
        said: the answer; empty where a step is so short that there is no need of one.
    """

    def __init__(self, people: Console, said: str = AFTER_THIS_STEP) -> None:
        self._people = people
        self._said = said
        self._begun = False
        self._requested = False

    def begin(self) -> None:
        """From now on there is something to save."""
        self._begun = True

    def end(self) -> None:
        """From now on there is nothing to save."""
        self._begun = False

    def is_requested(self) -> bool:
        return self._requested

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Takes Ctrl-C over while the body runs."""
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        if self._requested or not self._begun:
            raise KeyboardInterrupt
        self._requested = True
        if self._said:
            self._people.print(self._said, highlight=False)
