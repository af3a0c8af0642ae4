"""The loss of a trained run with other experts per token and other capacities: the same weights, routed in other ways.

Knows an opened run. Must not train, nor know how values are typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moecli.analysis.load_report import LoadCollector
from moecli.data.batches import Batch
from moecli.errors import FieldProblem, MoecliError, RunError
from moecli.evaluation.evaluate import Evaluation
from moecli.evaluation.routing_setting import RoutingSetting, sweep_problems, sweep_settings, trained_setting, with_setting
from moecli.model.rerouted import with_feed_forward
from moecli.moe.routing import RoutingRecord
from moecli.moe.sparse import SparseMoEConfig
from moecli.recipe.leak_notes import leak_notes, leaks_json
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.evaluate_split import evaluate_split
from moecli.workflows.events import Listener, Progress, Stage
from moecli.workflows.opened_run import OpenedRun
from moecli.workflows.run_dir import find_checkpoint

OPTIONS = {"top_k": "--top-k", "capacity_factor": "--capacity"}


@dataclass(frozen=True, slots=True)
class SweepValues:
    """What to evaluate: every combination. An empty list stands for the trained value."""

    top_ks: tuple[float, ...] = ()
    """Experts per token, above 0."""
    capacity_factors: tuple[float | None, ...] = ()
    """Above 0; None for dropless."""


@dataclass(frozen=True, slots=True)
class SweepRow:
    """The run in one setting."""

    setting: RoutingSetting
    is_trained: bool
    evaluation: Evaluation
    load: dict[str, float | None]
    """Means over layers; dead experts are added up."""
    recipe: Recipe
    """The run's with this setting: says what an evaluation in it lets a token see."""

    def to_json(self) -> dict[str, Any]:
        seen = leaks_json(self.recipe)
        return asdict(self.setting) | {
            "is_trained": self.is_trained,
            "loss": self.evaluation.loss,
            "perplexity": self.evaluation.perplexity,
            "bits_per_byte": self.evaluation.bits_per_byte,
            **{key: self.load[key] for key in ("cv_load", "max_violation", "dead_experts", "dropped_fraction")},
            "leaks_future": seen["leaks_future"],
            "mixes_rows": seen["mixes_rows"],
        }

    def leak_notes(self) -> list[str]:
        """What has to be said of this row beside its loss."""
        return leak_notes(self.recipe)


def sweep(opened: OpenedRun, values: SweepValues, listener: Listener) -> list[SweepRow]:
    """Evaluates every combination, and the trained setting, which is the run's plain evaluation.

    Raises:
        RunError: the run has no experts to choose among, or can't be evaluated with a value; all of these at once.
    """
    config = _sparse_config(opened)
    if problems := _problems(config, values, opened.recipe):
        raise _refusal(problems, opened)
    settings = sweep_settings(config, values.top_ks, values.capacity_factors)
    listener(Stage(f"evaluating {len(settings)} settings"))
    progress = _TokenProgress(listener, total=len(settings) * (len(opened.tokens.ids) - 1))
    return [_evaluate(opened, config, setting, progress) for setting in settings]


def refused_values(run_path: Path, values: SweepValues) -> list[str]:
    """What a run can't be evaluated with, by its recipe alone; nothing where there is no run, which `evaluate_run` will tell."""
    try:
        recipe = load_recipe(find_checkpoint(run_path)[0].recipe).recipe
    except MoecliError:
        return []
    config = recipe.model.ffn
    return [_told(problem) for problem in _problems(config, values, recipe)] if isinstance(config, SparseMoEConfig) else []


def _problems(config: SparseMoEConfig, values: SweepValues, recipe: Recipe) -> list[FieldProblem]:
    sizes = {"batch_size": recipe.evaluation.batch_size, "seq_len": recipe.data.seq_len}
    return sweep_problems(config, values.top_ks, values.capacity_factors, **sizes)


def _evaluate(opened: OpenedRun, config: SparseMoEConfig, setting: RoutingSetting, progress: _TokenProgress) -> SweepRow:
    ffn = with_setting(config, setting)
    is_trained = setting == trained_setting(config)
    model = opened.model if is_trained else with_feed_forward(opened.model, ffn)
    collector = LoadCollector()

    def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
        collector.add(records)
        progress.add(batch.ids_BS.numel())

    evaluation = evaluate_split(model, opened.recipe, opened.tokens, opened.tokenizer.vocab_size, observe)
    # Copied, not validated: the rules of training do not hold here (see with_setting).
    recipe = opened.recipe.model_copy(update={"model": opened.model.config.model_copy(update={"ffn": ffn})})
    return SweepRow(setting, is_trained, evaluation, collector.report().mean(), recipe)


class _TokenProgress:
    """Tokens done over all evaluations."""

    def __init__(self, listener: Listener, total: int) -> None:
        self._listener = listener
        self._total = total
        self._done = 0

    def add(self, tokens: int) -> None:
        self._done += tokens
        self._listener(Progress(self._done, self._total, "tokens"))


def _sparse_config(opened: OpenedRun) -> SparseMoEConfig:
    config = opened.model.config.ffn
    if isinstance(config, SparseMoEConfig):
        return config
    raise RunError(
        f"there is neither a number of experts per token nor a capacity to change: ffn.kind {config.kind} makes no choice among experts",
        where=str(opened.run.path),
        next_step="leave --top-k and --capacity out, or give a run of ffn.kind sparse",
    )


def _told(problem: FieldProblem) -> str:
    return f"{OPTIONS[problem.field]} {problem.what} (allowed: {problem.allowed})"


def _refusal(problems: Sequence[FieldProblem], opened: OpenedRun) -> RunError:
    lines = [_told(problem) for problem in problems]
    heading = f"{opened.run.path}: can't be evaluated so\n  " if len(lines) > 1 else f"{opened.run.path}: "
    return RunError(heading + "\n  ".join(lines), next_step="leave these values out")
