"""The recipe: everything that decides a training run, as one frozen object.

Knows the sections by name. Must not know how they are read from YAML (load.py) or what is done with them.
"""

from __future__ import annotations

import re
from typing import Literal

from moecli.config import Config, NonNegativeInt
from moecli.data.config import DataConfig
from moecli.errors import FieldProblem
from moecli.evaluation.evaluate import EvaluationConfig
from moecli.model.config import GPTConfig
from moecli.training.config import TrainingConfig


class Recipe(Config):
    """Data, model and training of one run."""

    name: str = "run"
    """Names the run folder: outputs/<name>/<time>/."""
    seed: NonNegativeInt = 0
    """Decides the initial weights and the order of the data."""
    objective: Literal["causal-lm"] = "causal-lm"
    """Predict each token from those before it."""
    data: DataConfig = DataConfig()
    model: GPTConfig = GPTConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def problems(self) -> list[FieldProblem]:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            return []
        return [
            FieldProblem(
                "name", "can't be the name of a run folder", allowed="up to 100 letters, digits, '.', '_' and '-', a letter or digit first"
            )
        ]
