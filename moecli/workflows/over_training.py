"""How the routing of a run became what it is: from its metrics, and from its checkpoints.

Knows run folders. Must not train.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moecli.errors import RunError
from moecli.model.checkpoint import load_model
from moecli.model.gpt import GPT
from moecli.training.metric_log import read_metrics
from moecli.workflows.run_dir import RunDir, step_of

LOAD_CURVES = ("load_cv", "max_violation", "dropped_fraction", "dead_experts")
COMMUNICATION_CURVES = ("processes", "communication_bytes", "communication_share", "process_max_violation")


Curves = dict[str, list[Any]]


def training_curves(run: RunDir) -> tuple[Curves | None, Curves | None]:
    """Of training steps, as metrics.jsonl has them: the load figures, and what several processes exchanged. None where it has none.

    Raises:
        RunError: a line is damaged.
    """
    lines = list(read_metrics(run.metrics))
    for line in lines:
        wrong = [curve for curve in LOAD_CURVES + COMMUNICATION_CURVES if not isinstance(line.get(curve, 0), int | float)]
        if wrong:
            what = f"{wrong[0]} of step {line['step']} is no number"
            raise RunError(what, where=str(run.metrics), next_step="remove the line")
    return _curves(lines, LOAD_CURVES), _curves(lines, COMMUNICATION_CURVES)


def _curves(lines: list[dict[str, Any]], names: tuple[str, ...]) -> Curves | None:
    """Of the lines that have the first of them."""
    having = [line for line in lines if names[0] in line]
    return {"steps": [line["step"] for line in having]} | {name: [line.get(name) for line in having] for name in names} if having else None


def earlier_checkpoints(run: RunDir, last: Path) -> Iterator[tuple[int, Path]]:
    """(step, folder) of the checkpoints before this one, oldest first."""
    numbered = {step: path for path in run.checkpoints.glob("step-*") if (step := step_of(path)) is not None}
    last_step = step_of(last)
    return ((step, path) for step, path in sorted(numbered.items()) if last_step is None or step < last_step)


def load_earlier(checkpoint: Path, last: GPT) -> GPT:
    """The model of an earlier checkpoint of a run.

    Raises:
        RunError: it is damaged, or not of the model that the run ended with.
    """
    next_step = "remove it, or leave --over-training out"
    try:
        model = load_model(checkpoint)
    except RunError as error:
        raise RunError(error.what, where=error.where, next_step=next_step) from error
    if (model.config, model.vocab_size) != (last.config, last.vocab_size):
        raise RunError("is not of the model that the run ended with", where=str(checkpoint), next_step=next_step)
    return model
