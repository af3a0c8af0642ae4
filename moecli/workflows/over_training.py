"""How the routing of a run became what it is: from its metrics, and from its checkpoints.

Knows run folders. Must not train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moecli.training.metric_log import read_metrics
from moecli.workflows.run_dir import RunDir

CURVES = ("load_cv", "max_violation", "dropped_fraction", "dead_experts")


def training_curves(run: RunDir) -> dict[str, list[Any]] | None:
    """The load figures of training steps, as metrics.jsonl has them; None where it has none.

    Raises:
        RunError: a line is damaged.
    """
    lines = [line for line in read_metrics(run.metrics) if "load_cv" in line]
    if not lines:
        return None
    return {"steps": [line["step"] for line in lines]} | {curve: [line.get(curve) for line in lines] for curve in CURVES}


def earlier_checkpoints(run: RunDir, last: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the checkpoints before this one, oldest first."""
    numbered = {step: path for path in run.checkpoints.glob("step-*") if (step := step_of(path)) is not None}
    last_step = step_of(last)
    return ((step, path) for step, path in sorted(numbered.items()) if last_step is None or step < last_step)


def step_of(checkpoint: Path) -> int | None:
    """The step that a checkpoint folder is named after."""
    number = checkpoint.name.removeprefix("step-")
    return int(number) if number.isdigit() else None
