"""`moecli train`: from a recipe to a run folder with a trained model and a word on its quality and routing.

Knows the order of the pieces. Must not know screens or signals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.analysis.load_report import LoadCollector, LoadReport
from moecli.data.batches import Batch
from moecli.data.prepare import PreparedData, prepare
from moecli.errors import Interrupted, RunError
from moecli.evaluation.evaluate import Evaluation
from moecli.model.checkpoint import load_model, save_model
from moecli.model.device import check_memory, pick_device
from moecli.model.init import build_gpt
from moecli.moe.routing import RoutingRecord
from moecli.recipe.leak_notes import leak_notes, leaks_json
from moecli.recipe.load import dump_recipe
from moecli.recipe.schema import Recipe
from moecli.reports import TRAINING_REPORTS
from moecli.training.loop import Hooks, run_loop
from moecli.training.metric_log import MetricLog
from moecli.training.state import load_state, save_state
from moecli.training.trainer import Trainer
from moecli.workflows.batches import model_vocab_size, training_batches
from moecli.workflows.environment import describe_environment
from moecli.workflows.evaluate_split import evaluate_split
from moecli.workflows.events import CheckpointSaved, Listener, Stage, StepLogged, TrainingStarted, Validated
from moecli.workflows.plain_json import finite
from moecli.workflows.plan import TrainingPlan, plan_training
from moecli.workflows.resume import check_same_data, check_same_recipe
from moecli.workflows.run_dir import (
    RunDir,
    atomic_folder,
    created,
    find_run,
    new_run_path,
    point_latest,
    remove_what_came_after,
    write_atomically,
    writing,
)


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
    """Training alone, without validation and saving; None if nothing was left to train."""
    wall_s: float
    """Of this call, preparation and validation included."""
    plan: TrainingPlan
    load: LoadReport
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
            **leaks_json(self.recipe),
            "load": self.load.to_json(),
            "files": [str(path) for path in self.files],
        }


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    listener: Listener,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Trains a recipe into a new run folder, or goes on with the one that is there.

    Raises:
        MoecliError: anything that the user can put right. A new run folder without a checkpoint is removed before.
    """
    started = time.perf_counter()
    resumed = find_run(recipe.name, out) if resume else None
    path = resumed.path if resumed else new_run_path(recipe.name, out)
    if resumed:
        check_same_recipe(resumed, recipe)
    device = pick_device(recipe.training.device)
    with _run_folder(path, resumed) as run:
        listener(Stage("reading and tokenizing the text"))
        data = prepare(recipe.data)
        if resumed:
            check_same_data(resumed, data, next_step="bring the old text (for stdlib, the Python version) back, or begin a new run")
        plan = plan_training(recipe, data.tokenizer.vocab_size)
        check_memory(plan.memory.total, device)
        trainer, first_step = _build_trainer(recipe, data, device, resumed)
        remove_what_came_after(run, first_step)
        _describe(run, recipe, data, device)
        job = _Job(recipe, run, data, trainer, MetricLog(run.metrics, first_step), listener, should_stop)
        listener(TrainingStarted(run.path, device.type, plan.cost, first_step, recipe.training.steps, len(data.train.ids)))
        hooks = Hooks(log=job.log, validate=job.validate, save=job.save, should_stop=should_stop)
        seconds = run_loop(trainer, first_step, recipe.evaluation.every, hooks)
        listener(Stage("final evaluation"))
        evaluation, load, files = job.finish()
    tokens_per_step = recipe.training.batch_size * recipe.data.seq_len
    trained_steps = recipe.training.steps - first_step
    result = TrainResult(
        run_dir=run.path,
        checkpoint=run.latest.resolve(),
        steps=recipe.training.steps,
        tokens=recipe.training.steps * tokens_per_step,
        validation=evaluation,
        tokens_per_s=trained_steps * tokens_per_step / seconds if trained_steps else None,
        wall_s=time.perf_counter() - started,
        plan=plan,
        load=load,
        files=files,
        recipe=recipe,
    )
    write_atomically(run.result, json.dumps(finite(result.to_json()), indent=2, allow_nan=False) + "\n")
    return result


def _build_trainer(recipe: Recipe, data: PreparedData, device: torch.device, resumed: RunDir | None) -> tuple[Trainer, int]:
    """A trainer with fresh weights, or with those of the latest checkpoint; and the number of steps done."""
    torch.manual_seed(recipe.seed)
    batches = training_batches(recipe, data.train, data.tokenizer.vocab_size)
    if resumed is None:
        model = build_gpt(recipe.model, model_vocab_size(recipe, data.tokenizer.vocab_size), recipe.seed)
        return Trainer(model.to(device), batches, recipe.training), 0
    checkpoint = resumed.latest.resolve()
    trainer = Trainer(load_model(checkpoint).to(device), batches, recipe.training)
    first_step = load_state(trainer, checkpoint)
    if first_step > recipe.training.steps:
        raise RunError(
            f"{first_step} steps are done already, more than training.steps ({recipe.training.steps})",
            where=str(resumed.path),
            next_step=f"--set training.steps={first_step} or more",
        )
    return trainer, first_step


def _run_folder(path: Path, resumed: RunDir | None) -> AbstractContextManager[RunDir]:
    return nullcontext(resumed) if resumed else created(path)


def _describe(run: RunDir, recipe: Recipe, data: PreparedData, device: torch.device) -> None:
    """Writes down what this run is, before it begins."""
    write_atomically(run.recipe, dump_recipe(recipe))
    environment = describe_environment(device, recipe.seed) | {"data_fingerprint": data.fingerprint}
    write_atomically(run.environment, json.dumps(environment, indent=2) + "\n")
    write_atomically(run.tokenizer, data.tokenizer.json)


@dataclass(frozen=True, slots=True)
class _Job:
    """The hooks of one training, and what they need."""

    recipe: Recipe
    run: RunDir
    data: PreparedData
    trainer: Trainer
    metric_log: MetricLog
    listener: Listener
    should_stop: Callable[[], bool]

    def log(self, figures: dict[str, Any]) -> None:
        with writing(self.run.metrics):
            self.metric_log.append(figures)
        self.listener(StepLogged(figures))

    def validate(self, step: int) -> None:
        """Leaves off half-way if a stop is asked for: the loop then saves and says so."""
        with suppress(_StopAskedError):
            self._validated(step, self._evaluate())

    def save(self, step: int) -> None:
        target = self.run.checkpoint(step)
        with atomic_folder(target) as folder:
            save_model(self.trainer.model, folder)
            save_state(self.trainer, step, folder)
        point_latest(self.run, target)
        self.listener(CheckpointSaved(target))

    def finish(self) -> tuple[Evaluation, LoadReport, list[Path]]:
        """The final loss and the load over the validation text, written to routing/.

        Raises:
            Interrupted: a stop was asked for; all steps are done and saved.
        """
        collector = LoadCollector()
        try:
            evaluation = self._evaluate(collector)
        except _StopAskedError:
            what = "stopped during the final evaluation; all steps are done and saved"
            raise Interrupted(what, next_step="add --resume to evaluate, or call `moecli eval`") from None
        self._validated(self.recipe.training.steps, evaluation)
        report = collector.report()
        return evaluation, report, self._write_reports(report) if report.layers else []

    def _evaluate(self, collector: LoadCollector | None = None) -> Evaluation:
        def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
            if self.should_stop():
                raise _StopAskedError
            if collector is not None:
                collector.add(records)

        return evaluate_split(self.trainer.model, self.recipe, self.data.validation, self.data.tokenizer.vocab_size, observe)

    def _validated(self, step: int, evaluation: Evaluation) -> None:
        with writing(self.run.metrics):
            self.metric_log.append({"step": step, "val_loss": evaluation.loss, "val_tokens": evaluation.tokens})
        self.listener(Validated(step, evaluation))

    def _write_reports(self, report: LoadReport) -> list[Path]:
        with atomic_folder(self.run.routing) as folder:
            content = report.to_json() | leaks_json(self.recipe) | {"notes": leak_notes(self.recipe)}
            (folder / "load.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            for name, draw in TRAINING_REPORTS.items():
                draw(content, folder / name)
        return [self.run.routing / name for name in ("load.json", *TRAINING_REPORTS)]


class _StopAskedError(Exception):
    """Carries a stop request out of an evaluation."""
