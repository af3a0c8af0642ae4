"""`moecli train`: from a recipe to a run folder with a trained model and a word on its quality and routing.

Knows the order of the pieces. Must not know screens or signals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moecli.analysis.load_report import LoadReport
from moecli.data.prepare import PreparedData, prepare
from moecli.data.small_file import read_small
from moecli.errors import RunError
from moecli.evaluation.evaluate import Evaluation
from moecli.model.checkpoint import load_model
from moecli.model.device import check_memory, pick_device
from moecli.model.init import build_gpt
from moecli.recipe.leak_notes import leaks_json
from moecli.recipe.load import dump_recipe, load_recipe
from moecli.recipe.schema import Recipe
from moecli.training.state import load_state
from moecli.training.trainer import Trainer
from moecli.workflows.batches import model_vocab_size, training_batches
from moecli.workflows.checkpoints import begin_after, check_room, last_checkpoint
from moecli.workflows.environment import describe_environment
from moecli.workflows.events import Listener, Stage, TrainingStarted
from moecli.workflows.opened_run import check_fits
from moecli.workflows.plain_json import finite
from moecli.workflows.plan import TrainingPlan, plan_training
from moecli.workflows.resume import check_has_text, check_own_files, check_same_data, check_same_recipe, check_same_tokenizer
from moecli.workflows.rewind import train_with_rewinds
from moecli.workflows.run_dir import RunDir, created, write_atomically, writing
from moecli.workflows.run_path import begun_later, find_run, new_run_path
from moecli.workflows.sole_use import check_not_in_use, sole_use
from moecli.workflows.train_job import TrainJob

OTHER_TRAINING = "another training"


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
    with _run_folder(recipe, out, listener, resume=resume) as run:
        job, first_step = _begin(recipe, run, listener, should_stop)
        steps = recipe.training.steps
        begin_after(run, first_step)
        check_room(run, job.trainer)
        _describe(job, is_done=first_step == steps)
        job.begin_log(first_step)
        if first_step < steps:  # not before all that it is made anew from is on the disk
            with writing(run.result):
                run.result.unlink(missing_ok=True)
        plan = plan_training(recipe, job.data.tokenizer.vocab_size)
        listener(TrainingStarted(run.path, job.trainer.device.type, plan.cost, first_step, steps, len(job.data.train.ids)))
        last_begin, seconds = train_with_rewinds(job, first_step)
        listener(Stage("final evaluation"))
        evaluation, load, files = job.finish()
        tokens_per_step = recipe.training.batch_size * recipe.data.seq_len
        result = TrainResult(
            run_dir=run.path,
            checkpoint=run.latest.resolve(),
            steps=steps,
            tokens=steps * tokens_per_step,
            validation=evaluation,
            tokens_per_s=(steps - last_begin) * tokens_per_step / seconds if last_begin < steps else None,
            wall_s=time.perf_counter() - started,
            plan=plan,
            load=load,
            num_rewinds=job.trainer.num_rewinds,
            warnings=[line["warning"] for line in job.metric_log.lines() if "warning" in line],
            files=files,
            recipe=recipe,
        )
        content = finite(result.to_json())
        if not _has_result(run, content):
            write_atomically(run.result, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return result


def _has_result(run: RunDir, content: dict[str, Any]) -> bool:
    """Whether a finished training that is resumed has its result already, with a speed that this call can't measure."""
    try:
        before = json.loads(read_small(run.result))
        return bool(before.keys() == content.keys() and before["steps"] == content["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


@contextmanager
def _run_folder(recipe: Recipe, out: Path | None, listener: Listener, *, resume: bool) -> Iterator[RunDir]:
    """The folder of the run, for this process alone: the one to resume, or a new one."""
    if resume:
        run = find_run(recipe.name, out)
        for later in begun_later(run, recipe.name) if out is None else []:
            listener(Stage(f"going on with {run.path}; {later} is newer, but has no checkpoint: --out {later} begins it again"))
        with sole_use(run.path, OTHER_TRAINING):
            with writing(run.path):
                run.checkpoints.mkdir(exist_ok=True)
            yield run
        return
    if out is not None:
        check_not_in_use(out, OTHER_TRAINING)
    path = new_run_path(recipe.name, out)
    with created(path, sole_use(path, OTHER_TRAINING)) as run:
        yield run


def _begin(recipe: Recipe, run: RunDir, listener: Listener, should_stop: Callable[[], bool]) -> tuple[TrainJob, int]:
    """A training as it begins, or as its last checkpoint left it; and the number of steps done."""
    checkpoint = last_checkpoint(run)
    check_own_files(run, has_checkpoint=checkpoint is not None)
    if checkpoint is not None:
        check_has_text(run)
    if run.recipe.exists():
        check_same_recipe(run, recipe)
    device = pick_device(recipe.training.device)
    listener(Stage("reading and tokenizing the text"))
    data = prepare(recipe.data)
    if checkpoint is not None:
        check_same_data(run, data, next_step="bring the old text (for stdlib, the Python version) back, or begin a new run")
        check_same_tokenizer(run, data)
    check_memory(plan_training(recipe, data.tokenizer.vocab_size).memory.total, device)
    trainer, first_step = _build_trainer(recipe, data, device, checkpoint)
    if first_step > recipe.training.steps:
        raise RunError(
            f"{first_step} steps are done already, more than training.steps ({recipe.training.steps})",
            where=str(run.path),
            next_step=f"--set training.steps={first_step} or more",
        )
    return TrainJob(recipe, run, data, trainer, listener, should_stop), first_step


def _build_trainer(recipe: Recipe, data: PreparedData, device: torch.device, checkpoint: Path | None) -> tuple[Trainer, int]:
    """A trainer with fresh weights, or with the state of a checkpoint; and the number of steps done."""
    torch.manual_seed(recipe.seed)
    batches = training_batches(recipe, data.train, data.tokenizer.vocab_size)
    if checkpoint is None:
        model = build_gpt(recipe.model, model_vocab_size(recipe, data.tokenizer.vocab_size), recipe.seed)
        return Trainer(model.to(device), batches, recipe.training), 0
    try:
        trainer = Trainer(load_model(checkpoint).to(device), batches, recipe.training)
        first_step = load_state(trainer, checkpoint)
    except RunError as error:
        next_step = f"remove {checkpoint}; --resume then goes on from the checkpoint before it, or begins again where there is none"
        raise RunError(error.what, where=error.where, allowed=error.allowed, next_step=next_step) from error
    check_fits(trainer.model.config, trainer.model.vocab_size, recipe, data.tokenizer, checkpoint)
    return trainer, first_step


def _describe(job: TrainJob, *, is_done: bool) -> None:
    """Writes down what this run is, before it begins. Of one that is done only the recipe can be another: its length."""
    run, recipe = job.run, job.recipe
    if is_done and load_recipe(run.recipe).recipe == recipe:
        return
    write_atomically(run.recipe, dump_recipe(recipe))
    if is_done:
        return
    environment = describe_environment(job.trainer.device, recipe.seed) | {"data_fingerprint": job.data.fingerprint}
    write_atomically(run.environment, json.dumps(environment, indent=2) + "\n")
    write_atomically(run.tokenizer, job.data.tokenizer.json)
