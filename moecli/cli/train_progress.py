"""What a person sees while a model trains: a live line on a terminal, plain lines elsewhere.

Knows the events of the train workflow. Must not compute figures.
"""

from __future__ import annotations

import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TimeRemainingColumn
from rich.text import Text

from moecli.cli.words import big_number, token_word
from moecli.evaluation.evaluate import Evaluation
from moecli.workflows.events import CheckpointSaved, Event, Rewound, Stage, StepLogged, TrainingStarted, Validated, Warned

# Without a terminal, a line for every logged step would fill a log file.
SECONDS_BETWEEN_LINES = 5.0


class TrainProgress:
    """Shows events; a context manager that puts the terminal back in order."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(SpinnerColumn(), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn(), console=console)
        self._figures = Text()
        # Two lines, so that a terminal of 80 columns shows them whole.
        self._live = Live(Group(self._bar, self._figures), console=console)
        self._task: TaskID | None = None
        self._first_step = 0
        self._steps = 0
        self._started = 0.0
        self._last_line = 0.0

    def __enter__(self) -> TrainProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._live.stop()

    def show(self, event: Event) -> None:
        """Takes any event of the workflow."""
        match event:
            case Stage(text):
                self._say(text)
            case TrainingStarted():
                self._begin(event)
            case StepLogged(figures):
                self._step(figures)
            case Validated(step, evaluation):
                self._say(f"step {step}: validation loss {quality_text(evaluation)}")
            case Warned(text):
                self._say(f"warning: {text}")
            case Rewound():
                self._rewound(event)
            case CheckpointSaved(path):
                self._say(f"saved {path}")

    def _begin(self, event: TrainingStarted) -> None:
        cost = event.cost
        self._say(f"run folder {event.run_dir}")
        self._say(
            f"{big_number(cost.params_total)} parameters, {big_number(cost.params_active)} active per token; "
            f"{big_number(event.train_tokens)} training tokens; on {event.device}"
        )
        if event.first_step >= event.steps:
            self._say(f"all {event.steps} steps are done already; nothing is left to train")
        elif event.first_step:
            self._say(f"going on after step {event.first_step}")
        self._first_step, self._steps, self._started = event.first_step, event.steps, time.monotonic()
        self._task = self._bar.add_task("", total=event.steps, completed=event.first_step)
        if self._console.is_terminal:
            self._live.start()

    def _rewound(self, event: Rewound) -> None:
        self._first_step, self._started = event.step, time.monotonic()
        self._say(rewind_text(event))

    def _step(self, figures: dict[str, Any]) -> None:
        text = figures_text(figures)
        if self._task is not None:
            self._bar.update(self._task, completed=figures["step"])
            self._figures.plain = text
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            done = figures["step"] - self._first_step
            remaining = (now - self._started) / done * (self._steps - figures["step"])
            self._say(f"step {figures['step']}/{self._steps}  {remaining:.0f} s left  {text}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def quality_text(evaluation: Evaluation) -> str:
    """A loss and what follows from it."""
    text = f"{evaluation.loss:.4f} nats/{token_word(evaluation.is_masked)}, perplexity {evaluation.perplexity:.2f}"
    return text if evaluation.bits_per_byte is None else f"{text}, {evaluation.bits_per_byte:.3f} bits/byte"


def rewind_text(event: Rewound) -> str:
    """Why a training went back, and how it goes on."""
    factor = event.learning_rate_factor
    return f"{event.reason}: back to step {event.step}, and on at {factor:g} times the learning rate (rewind {event.number})"


def figures_text(figures: dict[str, Any]) -> str:
    """The figures of a step that matter while one waits."""
    text = f"loss {figures['loss']:.3f}  {figures['tokens_per_s']:,.0f} tok/s"
    if "load_cv" not in figures:
        return text
    return f"{text}  load CV {figures['load_cv']:.2f}  dropped {figures['dropped_fraction']:.1%}  dead experts {figures['dead_experts']}"
