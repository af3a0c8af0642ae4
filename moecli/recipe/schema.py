"""The recipe: everything that decides a training run, as one frozen object.

Knows the sections by name. Must not know how they are read from YAML (load.py) or what is done with them.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from moecli.config import Config, NonNegativeInt
from moecli.data.config import DataConfig
from moecli.errors import FieldProblem
from moecli.evaluation.evaluate import EvaluationConfig
from moecli.model.config import GPTConfig
from moecli.parallel.config import ParallelConfig
from moecli.recipe.rules import balance_problems, batch_problems, expert_parallel_problems, freeze_problems, leak_problems
from moecli.training.config import TrainingConfig


class Recipe(Config):
    """Data, model and training of one run."""

    name: str = "run"
    """Names the run folder: outputs/<name>/<time>/."""
    seed: NonNegativeInt = 0
    """Decides the initial weights, the order of the data, and which tokens masked-lm hides."""
    objective: Literal["causal-lm", "masked-lm"] = "causal-lm"
    """Predict each token from those before it, or hidden tokens from all others (BERT)."""
    allow_future_leak: bool = False
    """Train a causal language model although its routing lets tokens see their future; every report then says so."""
    data: DataConfig = DataConfig()
    model: GPTConfig = GPTConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    parallel: ParallelConfig = ParallelConfig()

    def model_post_init(self, context: Any, /) -> None:
        if self.model.causal is None:
            object.__setattr__(self, "model", self.model.model_copy(update={"causal": self.objective == "causal-lm"}))
        super().model_post_init(context)

    @property
    def leaks_future(self) -> bool:
        """Whether a token's output depends on later tokens of its sequence, by attention to both sides or as the config declares."""
        return not self.model.is_causal or any(leak.sees == "future" for leak in self.model.ffn.leaks())

    @property
    def mixes_rows(self) -> bool:
        """Whether a token's output depends on other sequences of its batch, as the config declares."""
        return any(leak.sees == "rows" for leak in self.model.ffn.leaks())

    def problems(self) -> list[FieldProblem]:
        problems = [*self._name_problems(), *self._objective_problems()]
        if self.objective == "causal-lm":
            problems += leak_problems(self.model.ffn, allow_future_leak=self.allow_future_leak)
        problems += balance_problems(self.model.ffn, self.training) + freeze_problems(self.model.ffn, self.training)
        problems += expert_parallel_problems(self.model.ffn, self.parallel)
        return problems + batch_problems(self.model.ffn, self.training, self.evaluation.batch_size, self.data.seq_len)

    def _name_problems(self) -> list[FieldProblem]:
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name):
            return []
        return [
            FieldProblem(
                "name", "can't be the name of a run folder", allowed="up to 100 letters, digits, '.', '_' and '-', a letter or digit first"
            )
        ]

    def _objective_problems(self) -> list[FieldProblem]:
        needed = self.objective == "causal-lm"
        if self.model.causal == needed:
            return []
        what = f"objective {self.objective} predicts tokens {'from those before them' if needed else 'from both sides'}"
        allowed = f"{str(needed).lower()} with objective {self.objective}, or the key left out"
        return [FieldProblem("model.causal", what, allowed=allowed, involves=("objective",))]
