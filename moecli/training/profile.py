"""Where the time of a training step goes, as torch's profiler sees it.

Knows a trainer and the profiler. Must not know runs, nor how a profile is shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from moecli.training.trainer import Trainer

# Memory is found, kernels are chosen, a model is compiled and AdamW makes its moments in the first steps.
WARM_UP_STEPS = 3
PROFILED_STEPS = 10
# What autograd calls the parts of its backward pass.
BACKWARD = "autograd::engine::evaluate_function"
OPTIMIZER = "Optimizer.step"


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of operation, on average over the profiled steps."""

    name: str
    calls: float
    """Per step."""
    milliseconds: float
    """Per step, without the operations that it calls. On a CUDA device that of its kernels."""
    share: float
    """Of the milliseconds of all operations."""


@dataclass(frozen=True, slots=True)
class StepProfile:
    """Profiling slows a step down, small operations most: shares say more than milliseconds do."""

    steps: int
    phases: dict[str, float]
    """Milliseconds per step on the CPU's side: forward (with batches, losses and clipping), backward, optimizer."""
    operations: tuple[Operation, ...]
    """The most expensive first."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def profile_steps(trainer: Trainer, trace: Path) -> StepProfile:
    """Trains for WARM_UP_STEPS, then for PROFILED_STEPS that are watched; writes what happened when to `trace`, in Chrome's format."""
    for step in range(WARM_UP_STEPS):
        trainer.step(step)
    is_cuda = trainer.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    profiler = profile(activities=activities)
    with _silent_library():
        profiler.start()
    for step in range(WARM_UP_STEPS, WARM_UP_STEPS + PROFILED_STEPS):
        trainer.step(step).sums.losses["loss"].item()  # waits for the device
    with _silent_library():
        profiler.stop()
    profiler.export_chrome_trace(str(trace))
    events = list(profiler.key_averages())
    return StepProfile(PROFILED_STEPS, _phases(events), operations_of(events, is_cuda))


def operations_of(events: list[Any], is_cuda: bool) -> tuple[Operation, ...]:
    """The operations among the profiler's events. Kernels are events of their own beside the operations that call them: once is enough."""
    called = [event for event in events if event.device_type.name == "CPU"]
    timed = [(event, event.self_device_time_total if is_cuda else event.self_cpu_time_total) for event in called]
    total = sum(microseconds for _, microseconds in timed)
    operations = [
        Operation(event.key, event.count / PROFILED_STEPS, microseconds / 1e3 / PROFILED_STEPS, microseconds / total)
        for event, microseconds in timed
        if microseconds > 0
    ]
    return tuple(sorted(operations, key=lambda operation: -operation.milliseconds))


@contextmanager
def _silent_library() -> Iterator[None]:
    """The profiler's C++ library tells stderr that it begins and ends, whatever its log level."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _phases(events: list[Any]) -> dict[str, float]:
    whole = sum(event.self_cpu_time_total for event in events)
    backward = sum(event.cpu_time_total for event in events if event.key.startswith(BACKWARD))
    optimizer = sum(event.cpu_time_total for event in events if event.key.startswith(OPTIMIZER))
    phases = {"forward": whole - backward - optimizer, "backward": backward, "optimizer": optimizer}
    return {name: microseconds / 1e3 / PROFILED_STEPS for name, microseconds in phases.items()}
