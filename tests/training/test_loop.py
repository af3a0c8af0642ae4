"""What a training logs of its time, on a clock that is set by hand: nothing of it is lost in a stop."""

from __future__ import annotations

import pytest

from moecli.errors import Interrupted
from moecli.training import loop as loop_file
from moecli.training.loop import Hooks, run_loop
from moecli.training.trainer import Trainer
from tests.training.test_trainer import trainer_of

TOKENS_PER_STEP = 8 * 12


class Clock:
    """Stands still but in steps, of which number s, from 0, takes s + 1 seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    own_step = Trainer.step

    def step(trainer: Trainer, number: int):
        clock.now += number + 1
        return own_step(trainer, number)

    monkeypatch.setattr(loop_file, "time", clock)
    monkeypatch.setattr(Trainer, "step", step)
    return clock


def logged(trainer: Trainer, first_step: int, stop_before: int | None) -> list[dict]:
    """The lines of a part of a training, and beside each whether it was saved after."""
    lines: list[dict] = []
    steps = iter(range(first_step, 100))
    hooks = Hooks(
        log=lines.append,
        validate=lambda step: None,
        save=lambda step: lines.append({"saved": step}),
        should_stop=lambda: next(steps) == stop_before,
    )
    if stop_before is None:
        run_loop(trainer, first_step, 0, hooks)
    else:
        with pytest.raises(Interrupted):
            run_loop(trainer, first_step, 0, hooks)
    return lines


def seconds_of(lines: list[dict], first_step: int) -> list[tuple[int, float]]:
    """Step and seconds of each line, from the speed of the steps since the line before."""
    seconds, before = [], first_step
    for line in lines:
        if "step" in line:
            seconds.append((line["step"], TOKENS_PER_STEP * (line["step"] - before) / line["tokens_per_s"]))
            before = line["step"]
    return seconds


def without_time(lines: list[dict]) -> list[dict]:
    return [{key: value for key, value in line.items() if key != "tokens_per_s"} for line in lines if "step" in line]


def test_a_stop_within_a_window_keeps_its_seconds(split, clock):
    undisturbed = logged(trainer_of(split, log_every=3), 0, None)
    # Steps take 1, 2, .., 8 s.
    assert seconds_of(undisturbed, 0) == [(3, 6.0), (6, 15.0), (8, 15.0)]
    trainer = trainer_of(split, log_every=3)
    first, second = logged(trainer, 0, 5), logged(trainer, 5, None)
    assert seconds_of(first, 0) == [(3, 6.0), (5, 9.0)] and seconds_of(second, 5) == [(6, 6.0), (8, 15.0)]
    # The line of the stop comes before the checkpoint: what lies after a checkpoint is cut off on resume.
    assert "step" in first[-2] and first[-1] == {"saved": 5}
    # All other lines are those of the training that was not stopped.
    both = without_time(first + second)
    assert both[:1] + both[2:] == without_time(undisturbed)


@pytest.mark.parametrize("stop_before", [0, 3])
def test_a_stop_with_nothing_unlogged_adds_no_line(split, clock, stop_before):
    lines = logged(trainer_of(split, log_every=3), 0, stop_before)
    assert [line.get("step") for line in lines] == ([3, None] if stop_before else [None])
