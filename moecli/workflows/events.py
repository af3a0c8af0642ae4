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


Event = Stage | Progress | TrainingStarted | StepLogged | Validated | CheckpointSaved
Listener = Callable[[Event], None]
