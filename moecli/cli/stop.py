"""Ctrl-C, and what a system sends to end a program, during long work: finish the step, keep what there is, then leave.

Knows signals. Must not know what is stopped.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rich.console import Console

from moecli.errors import Interrupted

AFTER_THIS_STEP = "stopping after this step; Ctrl-C again leaves at once, without saving"
# Windows has no SIGHUP.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Stopped(Exception):
    """A signal ended the work, and what there was of it has been shown: all that is left is the exit code."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__()


class LeftAtOnce(Interrupted):
    """A signal ended the work where it was: nobody else has been told."""


class StopRequest:
    """Turns the first signal into a question that the work asks between its steps, and the second into KeyboardInterrupt.

    Before the work has begun (`begin`) and after it (`end`) there is nothing to save, so a signal interrupts at once.

    Args:
        people: where the first signal is answered.
        said: the answer; empty where a step is so short that there is no need of one.
    """

    def __init__(self, people: Console, said: str = AFTER_THIS_STEP) -> None:
        self._people = people
        self._said = said
        self._begun = False
        self._requested = False
        self._number = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """What a program ends with that the last signal has ended: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self._number

    def begin(self) -> None:
        """From now on there is something to save."""
        self._begun = True

    def end(self) -> None:
        """From now on there is nothing to save."""
        self._begun = False

    def is_requested(self) -> bool:
        return self._requested

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Around what tells of the work. A terminal or a pipe that is gone is no reason to lose the steps since the last checkpoint."""
        try:
            yield
        except OSError as error:
            if not (self._requested or error.errno in (errno.EIO, errno.EPIPE)):
                raise

    @contextmanager
    def armed(self, agreed: Callable[[int], int] = lambda number: number) -> Iterator[None]:
        """Takes the signals over while the body runs, and gives its interruptions the exit code of the signal. Those that the caller
        of the program has switched off stay so: nohup does that with SIGHUP, a script with SIGINT for what it runs in the background.

        Args:
            agreed: which signal counts, given that of this process, 0 for none, where several processes have stopped together.
        """
        ignored = {number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN}
        before = {number: signal.signal(number, self._handle) for number in SIGNALS if number not in ignored}
        try:
            yield
        except Interrupted as error:
            self._number = signal.Signals(agreed(self._number if self._requested else 0) or signal.SIGINT)
            error.exit_code = self.exit_code
            raise
        except KeyboardInterrupt:
            if self._number == signal.SIGINT:
                raise
            interrupted = LeftAtOnce("interrupted")
            interrupted.exit_code = self.exit_code
            raise interrupted from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        self._number = signal.Signals(number)
        if self._requested or not self._begun:
            raise KeyboardInterrupt
        self._requested = True
        # The terminal may be gone, or the signal come in the middle of a line that is being written: the work has to save all the same.
        with suppress(OSError, RuntimeError):
            if self._said:
                self._people.print(self._said, highlight=False)
