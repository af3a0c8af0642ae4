"""Progress of a comparison: few plain lines without a terminal, bars of the run and of the whole on one."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from moecli.cli import compare_dense_progress
from moecli.cli.compare_dense_progress import CompareProgress
from moecli.cli.words import duration
from moecli.evaluation.evaluate import Evaluation
from moecli.workflows.events import (
    CheckpointSaved,
    Event,
    Rewound,
    RunBegun,
    Stage,
    StepLogged,
    TrainingStarted,
    Validated,
    Warned,
    WorkDone,
)

STEPS = 4


def run_events(number: int, first_step: int = 0) -> list[Event]:
    """A run as the workflow tells it, with an estimate of the whole after each step."""
    steps = range(first_step + 1, STEPS + 1)
    logged = [
        event
        for step in steps
        for event in (
            StepLogged({"step": step, "loss": 3.0, "tokens_per_s": 1000.0}),
            WorkDone(float(STEPS * (number - 1) + step), 2.0 * STEPS, 65.0 - step),
            Validated(step, Evaluation(loss=2.5, tokens=8, num_bytes=8)) if step < STEPS else CheckpointSaved(Path("checkpoint")),
        )
    ]
    started = TrainingStarted(Path("run"), "cpu", SimpleNamespace(params_total=1, params_active=1), first_step, STEPS, 100)
    final = Validated(STEPS, Evaluation(loss=2.0, tokens=8, num_bytes=8))
    return [RunBegun("dense-active", number, number, 2), Stage("reading"), started, *logged, Stage("final evaluation"), final]


@pytest.fixture
def clock(monkeypatch):
    """A clock that each look moves on by a second."""
    seconds = iter(range(10, 1000))
    monkeypatch.setattr(compare_dense_progress.time, "monotonic", lambda: float(next(seconds)))


def lines_of(events: list[Event]) -> list[str]:
    stream = io.StringIO()
    with CompareProgress(Console(file=stream, width=200)) as progress:
        for event in events:
            progress.show(event)
    return stream.getvalue().splitlines()


def test_without_a_terminal_a_run_is_a_line_at_each_end_and_one_every_five_seconds(clock):
    lines = lines_of([*run_events(1), *run_events(2, first_step=1), Stage("measuring the speed of generation")])
    # The seven steps are logged a second apart, the first at 10 s: lines at 10 s and 15 s. The second of them is step 3 of the second run,
    # and what was told last then are the 63 s after its step 2.
    assert lines == [
        "run 1 of 2: dense-active, seed 1",
        "  step 1/4  loss 3.000  1,000 tok/s",
        "  validation loss 2.0000 nats/token, perplexity 7.39, 2.885 bits/byte",
        "run 2 of 2: dense-active, seed 2",
        "  going on after step 1",
        "  step 3/4  1 min 03 s left for all runs  loss 3.000  1,000 tok/s",
        "  validation loss 2.0000 nats/token, perplexity 7.39, 2.885 bits/byte",
        "measuring the speed of generation",
    ]


def test_trouble_is_told():
    lines = lines_of([RunBegun("moe", 0, 1, 1), Warned("the loss jumped"), Rewound(4, 1, 0.5, "the loss is not finite")])
    assert lines[1:] == [
        "  warning: the loss jumped",
        "  the loss is not finite: back to step 4, and on at 0.5 times the learning rate (rewind 1)",
    ]


def test_control_characters_in_names_do_not_reach_the_terminal():
    assert "\x1b" not in "".join(lines_of([RunBegun("\x1b[2J", 0, 1, 1)]))


def test_a_terminal_of_eighty_columns_shows_the_run_and_the_whole():
    stream = io.StringIO()
    console = Console(file=stream, width=80, height=24, force_terminal=True, color_system=None)
    figures = {"step": 2, "loss": 3.0, "tokens_per_s": 1e6, "load_cv": 0.21, "dropped_fraction": 0.01, "dead_experts": 3}
    with CompareProgress(console) as progress:
        for event in run_events(1)[:3]:
            progress.show(event)
        progress.show(WorkDone(3.0, 8.0, 3700.0))
        progress.show(StepLogged(figures))
    text = stream.getvalue()
    assert "2/4" in text and "38%" in text and "1 h 02 min left" in text
    assert "loss 3.000  1,000,000 tok/s  load CV 0.21  dropped 1.0%  dead experts 3" in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.44, "0.4 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (3 * 3600 + 125, "3 h 02 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
