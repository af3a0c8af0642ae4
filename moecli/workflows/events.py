"""What a workflow tells while it works.

Knows numbers and paths. Must not know how they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.evaluation.evaluate import Evaluation
from moecli.model.accounting import ModelCost


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the work begins."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the stage is."""

    done: int
    total: int
    unit: str
    """What is counted, in the plural."""


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    run_dir: Path
    device: str
    cost: ModelCost
    first_step: int
    steps: int
    train_tokens: int
    """Tokens of training text there are."""


@dataclass(frozen=True, slots=True)
class StepLogged:
    figures: dict[str, Any]
    """A line of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Validated:
    step: int
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    path: Path


@dataclass(frozen=True, slots=True)
class Warned:
    """The figures of a training look wrong."""

    text: str


@dataclass(frozen=True, slots=True)
class Rewound:
    """A training has gone back to a checkpoint, because numbers were not finite."""

    step: int
    """Steps done at the checkpoint."""
    number: int
    """Counted from 1 over the whole training."""
    learning_rate_factor: float
    """Of the schedule's rate, from here on."""
    reason: str


@dataclass(frozen=True, slots=True)
class RunBegun:
    """One run of a comparison begins, or goes on."""

    arm: str
    seed: int
    number: int
    """Counted from 1 over all runs of the comparison, those that were done before included."""
    runs: int


@dataclass(frozen=True, slots=True)
class WorkDone:
    """How far a whole comparison is."""

    done: float
    """Training FLOPs."""
    total: float
    """Training FLOPs; an estimate until the length of every arm is known."""
    seconds_left: float | None
    """None until there is something to judge by."""


@dataclass(frozen=True, slots=True)
class RunsDone:
    """Every run of a comparison is trained: what is left can be done again from their folders."""


Event = Stage | Progress | TrainingStarted | StepLogged | Validated | CheckpointSaved | Warned | Rewound | RunBegun | WorkDone | RunsDone
Listener = Callable[[Event], None]
