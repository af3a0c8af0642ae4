"""What a finished training says of itself.

Knows how it is told in JSON. Must not know how it was trained.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.analysis.load_report import LoadReport
from moecli.evaluation.evaluate import Evaluation
from moecli.recipe.leak_notes import leaks_json
from moecli.recipe.schema import Recipe
from moecli.workflows.plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished training."""

    run_dir: Path
    checkpoint: Path
    steps: int
    tokens: int
    """Tokens that were trained on, repeats included."""
    validation: Evaluation
    tokens_per_s: float | None
    """Training alone, without validation and saving, since it began, was resumed or rewound; None if nothing was left to train."""
    wall_s: float
    """Of this call, preparation and validation included."""
    plan: TrainingPlan
    load: LoadReport
    num_rewinds: int
    """How often numbers were not finite and the training went back to a checkpoint."""
    warnings: list[str]
    """What looked wrong on the way, each kind once."""
    communication: dict[str, float] | None
    """Of several processes: see `communication_means`."""
    files: list[Path]
    recipe: Recipe

    def to_json(self) -> dict[str, Any]:
        return {
            "run_dir": str(self.run_dir),
            "checkpoint": str(self.checkpoint),
            "steps": self.steps,
            "tokens": self.tokens,
            "val_loss": self.validation.loss,
            "perplexity": self.validation.perplexity,
            "bits_per_byte": self.validation.bits_per_byte,
            "tokens_per_s": self.tokens_per_s,
            "wall_s": self.wall_s,
            "params_total": self.plan.cost.params_total,
            "params_active": self.plan.cost.params_active,
            "flops_per_token": self.plan.cost.train_flops_per_token,
            "rewinds": self.num_rewinds,
            "warnings": self.warnings,
            "communication": self.communication,
            **leaks_json(self.recipe),
            "load": self.load.to_json(),
            "files": [str(path) for path in self.files],
        }


def communication_means(lines: Iterable[dict[str, Any]], first_step: int) -> dict[str, float] | None:
    """What several processes exchanged in a step, the mean over the logged ones after `first_step`, by the keys of metrics.jsonl.

    None where there was one process. The share is missing on accelerators, MaxVio of processes where each has all experts.
    """
    watched = [line for line in lines if "processes" in line and line["step"] > first_step]
    if not watched:
        return None
    keys = ("communication_bytes", "communication_share", "process_max_violation")
    means = {key: statistics.fmean(line[key] for line in watched) for key in keys if key in watched[0]}
    return {"processes": watched[-1]["processes"]} | means
