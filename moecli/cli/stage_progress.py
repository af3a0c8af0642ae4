"""What a person sees while text is looked at: stages as lines, and how far each is.

Knows the events Stage and Progress. Must not know what is done in them.
"""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from moecli.cli.console import visible
from moecli.workflows.events import Event, Progress, Stage

# Without a terminal, a line for every batch would fill a log file.
SECONDS_BETWEEN_LINES = 5.0


class StageProgress:
    """Shows events; a context manager that puts the terminal back in order."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, transient=True)
        self._task: TaskID | None = None
        self._begun = self._last_line = 0.0

    def __enter__(self) -> StageProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_stage()

    def show(self, event: Event) -> None:
        """Takes any event of a workflow; others than these two say nothing here."""
        match event:
            case Stage(text):
                self._end_stage()
                self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
            case Progress():
                self._progress(event)

    def _progress(self, event: Progress) -> None:
        if self._console.is_terminal:
            if self._task is None:
                self._task = self._bar.add_task(event.unit, total=event.total)
                self._bar.start()
            self._bar.update(self._task, completed=event.done, total=event.total)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            remaining = (now - self._begun) / event.done * (event.total - event.done)
            self._last_line = now
            self._console.print(f"{event.done:,} of {event.total:,} {event.unit}, {remaining:.0f} s left", highlight=False, soft_wrap=True)

    def _end_stage(self) -> None:
        self._begun = self._last_line = time.monotonic()
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._bar.stop()
            self._task = None
