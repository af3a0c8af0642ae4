"""What a person sees while a comparison runs: which run it is, how that goes, and how long all of it still takes.

Knows the events of the compare-dense workflow. Must not compute figures.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from moecli.cli.console import visible
from moecli.cli.train_progress import SECONDS_BETWEEN_LINES, figures_text, quality_text, rewind_text
from moecli.cli.words import duration
from moecli.workflows import events
from moecli.workflows.events import Event, Rewound, RunBegun, Stage, StepLogged, TrainingStarted, Validated, Warned, WorkDone


class CompareProgress:
    """Shows events; a context manager that puts the terminal back in order.

    On a terminal: the bar of the run, its figures, and the bar of the whole. Elsewhere a line when a run begins and ends, and between them
    one every few seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._run_bar = Progress(
            TextColumn("this run"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        self._all_bar = Progress(
            TextColumn("all runs"), BarColumn(bar_width=30), TaskProgressColumn(), TextColumn("{task.description}"), console=console
        )
        self._figures = Text(no_wrap=True, overflow="ellipsis")
        self._live = Live(Group(self._run_bar, self._figures, self._all_bar), console=console, transient=True)
        self._run_task = self._run_bar.add_task("", total=None)
        self._all_task = self._all_bar.add_task("", total=None)
        self._steps = 0
        self._is_in_run = False
        self._left = ""
        self._last_line = 0.0

    def __enter__(self) -> CompareProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._live.stop()

    def show(self, event: Event) -> None:
        """Takes any event of the workflow; checkpoints, and validations on the way, say nothing here."""
        match event:
            case RunBegun():
                self._begin_run(event)
            case TrainingStarted():
                self._begin_training(event)
            case StepLogged(figures):
                self._step(figures)
            case Validated(step, evaluation) if step == self._steps:
                self._is_in_run = False
                self._say(f"  validation loss {quality_text(evaluation)}")
            case Warned(text):
                self._say(f"  warning: {text}")
            case Rewound():
                self._say(f"  {rewind_text(event)}")
            case WorkDone():
                self._work(event)
            case Stage(text):
                self._stage(text)
            case events.Progress(done, total, unit):
                self._figures.plain = f"{done:,} of {total:,} {unit}"

    def _begin_run(self, event: RunBegun) -> None:
        self._is_in_run = True
        self._say(f"run {event.number} of {event.runs}: {event.arm}, seed {event.seed}")
        self._run_bar.reset(self._run_task, total=None)
        self._figures.plain = ""

    def _begin_training(self, event: TrainingStarted) -> None:
        self._steps = event.steps
        if event.first_step:
            self._say(f"  going on after step {event.first_step}")
        self._run_bar.reset(self._run_task, total=event.steps, completed=event.first_step)

    def _step(self, figures: dict[str, Any]) -> None:
        text = figures_text(figures)
        self._run_bar.update(self._run_task, completed=figures["step"])
        self._figures.plain = text
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = f"{self._left} for all runs  " if self._left else ""
            self._say(f"  step {figures['step']}/{self._steps}  {left}{text}")

    def _work(self, event: WorkDone) -> None:
        self._left = "" if event.seconds_left is None else f"{duration(event.seconds_left)} left"
        self._all_bar.update(self._all_task, completed=event.done, total=event.total, description=self._left)

    def _stage(self, text: str) -> None:
        """The stages of a run are the same for each, and pass; what comes between and after the runs is said."""
        if self._is_in_run:
            self._figures.plain = visible(text)
        else:
            self._figures.plain = ""
            self._say(text)

    def _say(self, text: str) -> None:
        self._console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
