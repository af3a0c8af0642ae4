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

CURVES = ("load_cv", "max_violation", "dropped_fraction", "dead_experts")


def training_curves(run: RunDir) -> dict[str, list[Any]] | None:
    """The load figures of training steps, as metrics.jsonl has them; None where it has none.

    Raises:
        RunError: a line is damaged.
    """
    lines = [line for line in read_metrics(run.metrics) if "load_cv" in line]
    if not lines:
        return None
    for line in lines:
        wrong = [curve for curve in CURVES if not isinstance(line.get(curve, 0), int | float)]
        if wrong:
            what = f"{wrong[0]} of step {line['step']} is no number"
            raise RunError(what, where=str(run.metrics), next_step="remove the line")
    return {"steps": [line["step"] for line in lines]} | {curve: [line.get(curve) for line in lines] for curve in CURVES}


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
