"""What a finished training says of itself.

Knows how it is told in JSON. Must not know how it was trained.
"""

from __future__ import annotations

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
            **leaks_json(self.recipe),
            "load": self.load.to_json(),
            "files": [str(path) for path in self.files],
        }
