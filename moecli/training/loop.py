"""The order of things over a whole training: step, log, validate, save, stop.

Knows a trainer and four hooks. Must not know files, screens or signals.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moecli.errors import Interrupted, TrainingError
from moecli.training.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop calls. Steps are the number of steps done so far."""

    log: Callable[[dict[str, Any]], None]
    """Takes the figures of a step, every `log_every` steps."""
    validate: Callable[[int], None]
    save: Callable[[int], None]
    should_stop: Callable[[], bool]
    """Asked before each step; True makes the loop save and raise Interrupted."""


def run_loop(trainer: Trainer, first_step: int, validate_every: int, hooks: Hooks) -> float:
    """Trains from `first_step` to the last, validating every so many steps (0: never) and saving as the config says and at the end.

    Returns the seconds that the steps took, without validating and saving.

    Raises:
        Interrupted: a stop was asked for; the state has been saved.
        TrainingError: the loss is not finite any more.
    """
    config = trainer.config
    tokens_per_step = config.batch_size * trainer.batches.seq_len
    total_seconds, seconds, steps_timed = 0.0, 0.0, 0
    for step in range(first_step, config.steps):
        if hooks.should_stop():
            hooks.save(step)
            raise Interrupted(f"stopped after step {step} of {config.steps}; the checkpoint is saved", next_step="add --resume to go on")
        done = step + 1
        is_last = done == config.steps
        started = time.perf_counter()
        result = trainer.step(step)
        # Reading the figures waits for the device, so the time up to here is the time that the steps took.
        figures = result.figures() if is_last or done % config.log_every == 0 else None
        seconds, steps_timed = seconds + time.perf_counter() - started, steps_timed + 1
        if figures is not None:
            _check_finite(figures, done)
            speed = {"tokens_per_s": tokens_per_step * steps_timed / seconds}
            hooks.log({"step": done, "tokens": done * tokens_per_step} | figures | speed)
            total_seconds, seconds, steps_timed = total_seconds + seconds, 0.0, 0
        if validate_every and done % validate_every == 0 and not is_last:
            hooks.validate(done)
        if is_last or (config.checkpoint_every and done % config.checkpoint_every == 0):
            hooks.save(done)
    return total_seconds


def _check_finite(figures: dict[str, float], step: int) -> None:
    if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
        raise TrainingError(
            f"loss {figures['loss']}, gradient norm {figures['grad_norm']} at step {step}",
            next_step="lower training.learning_rate, or raise training.schedule.warmup_fraction; the last checkpoint is sound",
        )
