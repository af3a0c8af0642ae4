"""The order of things over a whole training: step, log, validate, save, stop.

Knows a trainer and four hooks. Must not know files, screens or signals.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moecli.errors import Interrupted
from moecli.training.step_result import StepResult
from moecli.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls. Steps are the number of steps done so far."""

    log: Callable[[dict[str, Any]], None]
    """Takes the figures of a step, every `log_every` steps, at the end and at a stop."""
    validate: Callable[[int], bool]
    """True makes the loop save."""
    save: Callable[[int], None]
    should_stop: Callable[[], bool]
    """Asked before each step; True makes the loop save and raise Interrupted."""


def run_loop(trainer: Trainer, first_step: int, validate_every: int, hooks: Hooks) -> float:
    """Trains from `first_step` to the last, validating every so many steps (0: never) and saving as the config says and at the end.

    Returns the seconds that the steps took, without validating and saving.

    Raises:
        Interrupted: a stop was asked for; the state has been saved.
        NotFinite: loss, gradient or router logits.
    """
    config = trainer.config
    total_seconds, window = 0.0, _Window()
    unchecked: list[StepResult] = []
    if first_step and _is_due(first_step, validate_every) and first_step < config.steps and hooks.validate(first_step):
        hooks.save(first_step)  # the stop may have come before the validation
    for step in range(first_step, config.steps):
        if hooks.should_stop():
            started = time.perf_counter()
            _check_finite(unchecked)
            if window.steps:  # their seconds would be lost
                window.seconds += time.perf_counter() - started
                hooks.log(window.figures(trainer))
            hooks.save(step)
            raise Interrupted(f"stopped after step {step} of {config.steps}; the checkpoint is saved", next_step="add --resume to go on")
        done = step + 1
        is_last = done == config.steps
        is_logged = is_last or done % config.log_every == 0
        is_saved = is_last or _is_due(done, config.checkpoint_every)
        is_validated = _is_due(done, validate_every) and not is_last
        started = time.perf_counter()
        result = trainer.watched_step(step) if is_logged else trainer.step(step)
        unchecked.append(result)
        # Reading numbers waits for the device, so that what was timed is done. Nothing is saved or validated unseen.
        if is_logged or is_saved or is_validated:
            _check_finite(unchecked)
        window.add(result, time.perf_counter() - started)
        if is_logged:
            hooks.log(window.figures(trainer))
            total_seconds, window = total_seconds + window.seconds, _Window()
        is_kept = is_validated and hooks.validate(done)
        if is_saved or is_kept:
            hooks.save(done)
    return total_seconds


@dataclass(slots=True)
class _Window:
    """The steps since the last line of the log."""

    seconds: float = 0.0
    steps: int = 0
    last: StepResult | None = None

    def add(self, result: StepResult, seconds: float) -> None:
        self.last, self.steps, self.seconds = result, self.steps + 1, self.seconds + seconds

    def figures(self, trainer: Trainer) -> dict[str, Any]:
        """Those of its last step, and the speed of all of them."""
        assert self.last is not None
        done, tokens_per_step = self.last.step + 1, trainer.config.batch_size * trainer.batches.seq_len
        speed = {"tokens_per_s": tokens_per_step * self.steps / self.seconds}
        return {"step": done, "tokens": done * tokens_per_step} | self.last.figures() | speed


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_finite(unchecked: list[StepResult]) -> None:
    """Checks the steps since the last look, first step first, and forgets them."""
    for result in unchecked:
        result.check_finite()
    unchecked.clear()
