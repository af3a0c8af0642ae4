"""Ctrl-C during training: finish the step, save, then leave.

Knows one signal. Must not know what is stopped.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console


class StopRequest:
    """Turns the first Ctrl-C into a question that the training loop asks, and the second into KeyboardInterrupt.

    Until training has begun (`begin`) there is nothing to save, so Ctrl-C interrupts at once.
    """

    def __init__(self, people: Console) -> None:
        self._people = people
        self._begun = False
        self._requested = False

    def begin(self) -> None:
        """From now on there is something to save."""
        self._begun = True

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
        self._people.print("stopping after this step; Ctrl-C again leaves at once, without saving", highlight=False)
