"""`moecli train`: from a recipe to a run folder with a trained model and a word on its quality and routing.

Knows the order of the pieces. Must not know screens or signals.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from moecli.data.prepare import PreparedData
from moecli.data.small_file import read_small
from moecli.errors import RunError
from moecli.model.checkpoint import load_model
from moecli.model.device import pick_device
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.parallel.peers import lost_peers
from moecli.parallel.world import World, on_first
from moecli.recipe.load import dump_recipe, load_recipe
from moecli.recipe.schema import Recipe
from moecli.training.state import load_state
from moecli.training.trainer import Trainer
from moecli.workflows.batches import model_vocab_size, training_batches
from moecli.workflows.checkpoints import begin_after, check_room, last_checkpoint
from moecli.workflows.distributed import one_training, prepared, ready_device, spread_trainer
from moecli.workflows.environment import describe_environment
from moecli.workflows.events import Listener, Stage, TrainingStarted
from moecli.workflows.opened_run import check_fits
from moecli.workflows.plain_json import finite
from moecli.workflows.plan import plan_training
from moecli.workflows.resume import check_has_text, check_own_files, check_same_data, check_same_recipe, check_same_tokenizer
from moecli.workflows.rewind import train_with_rewinds
from moecli.workflows.run_dir import RunDir, created, write_atomically, writing
from moecli.workflows.run_path import begun_later, find_run, is_begun, new_run_path
from moecli.workflows.sole_use import check_not_in_use, sole_use
from moecli.workflows.train_job import TrainJob
from moecli.workflows.train_result import TrainResult, communication_means

OTHER_TRAINING = "another training"


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    restarted: bool = False,
    listener: Listener,
    should_stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
) -> TrainResult:
    """Trains a recipe into a new run folder, or goes on with the one that is there.

    Args:
        restarted: whether a launcher has called this before with the same `out` and lost a process: goes on with the run there, if any.
        world: the processes that train together, each of which has to call this with the same recipe and options. The first one writes
            the run, and tells its listener; those of the others hear the stages that every process goes through.

    Raises:
        PeerLost: another process of the world has ended or does not answer.
        MoecliError: anything that the user can put right; of a world, on all processes. A new run folder without a checkpoint is removed
            before.
    """
    with nullcontext() if world is None else lost_peers():
        world = one_training(recipe, {"--out": None if out is None else str(out), "--resume": resume}, world)
        return _train(recipe, out, listener, should_stop, world, resume=resume, restarted=restarted)


def _train(
    recipe: Recipe,
    out: Path | None,
    listener: Listener,
    should_stop: Callable[[], bool],
    world: World | None,
    *,
    resume: bool,
    restarted: bool,
) -> TrainResult:
    started = time.perf_counter()
    with ExitStack() as on_leaving:
        run = on_first(world, lambda: on_leaving.enter_context(_run_folder(recipe, out, listener, resume=resume, restarted=restarted)))
        job, first_step = _begin(recipe, run, listener, should_stop, world)
        steps = recipe.training.steps
        on_first(world, lambda: _ready(job, first_step))
        plan = plan_training(recipe, job.data.tokenizer.vocab_size)
        listener(TrainingStarted(run.path, job.trainer.device.type, plan.cost, first_step, steps, len(job.data.train.ids)))
        last_begin, seconds = train_with_rewinds(job, first_step)
        listener(Stage("final evaluation"))
        evaluation, load, files = job.finish()
        tokens_per_step = recipe.training.batch_size * recipe.data.seq_len
        lines = on_first(world, lambda: job.metric_log.lines())
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
            warnings=[line["warning"] for line in lines if "warning" in line],
            communication=communication_means(lines, last_begin),
            files=files,
            recipe=recipe,
        )
        on_first(world, lambda: _write_result(run, result))
    return result


def _ready(job: TrainJob, first_step: int) -> None:
    """Brings the run folder to where the training begins."""
    run, steps = job.run, job.recipe.training.steps
    begin_after(run, first_step)
    check_room(run, job.trainer)
    _describe(job, is_done=first_step == steps)
    job.begin_log(first_step)
    if first_step < steps:  # not before all that it is made anew from is on the disk
        with writing(run.result):
            run.result.unlink(missing_ok=True)


def _write_result(run: RunDir, result: TrainResult) -> None:
    content = finite(result.to_json())
    if not _has_result(run, content):
        write_atomically(run.result, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _has_result(run: RunDir, content: dict[str, Any]) -> bool:
    """Whether a finished training that is resumed has its result already, with a speed that this call can't measure."""
    try:
        before = json.loads(read_small(run.result))
        return bool(before.keys() == content.keys() and before["steps"] == content["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


@contextmanager
def _run_folder(recipe: Recipe, out: Path | None, listener: Listener, *, resume: bool, restarted: bool) -> Iterator[RunDir]:
    """The folder of the run, for this process alone: the one to resume, or a new one."""
    if resume or (restarted and out is not None and is_begun(out)):
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


def _begin(recipe: Recipe, run: RunDir, listener: Listener, should_stop: Callable[[], bool], world: World | None) -> tuple[TrainJob, int]:
    """A training as it begins, or as its last checkpoint left it; and the number of steps done."""
    checkpoint = on_first(world, lambda: _begins_with(run, recipe))
    if world is None:
        pick_device(recipe.training.device)  # before the text is read, which may take long
    listener(Stage("reading and tokenizing the text"))
    data = prepared(recipe, world)
    if checkpoint is not None:
        on_first(world, lambda: _check_text(run, data))
    device = ready_device(recipe, data.tokenizer.vocab_size, world)
    trainer, first_step = _build_trainer(recipe, data, device, checkpoint, world)
    if first_step > recipe.training.steps:
        raise RunError(
            f"{first_step} steps are done already, more than training.steps ({recipe.training.steps})",
            where=str(run.path),
            next_step=f"--set training.steps={first_step} or more",
        )
    stops = should_stop if world is None else lambda: world.agree(should_stop())
    return TrainJob(recipe, run, data, trainer, listener, stops), first_step


def _begins_with(run: RunDir, recipe: Recipe) -> Path | None:
    """The checkpoint to go on from, of a run that has what belongs to it and was begun with this recipe."""
    checkpoint = last_checkpoint(run)
    check_own_files(run, has_checkpoint=checkpoint is not None)
    if checkpoint is not None:
        check_has_text(run)
    if run.recipe.exists():
        check_same_recipe(run, recipe)
    return checkpoint


def _check_text(run: RunDir, data: PreparedData) -> None:
    check_same_data(run, data, next_step="bring the old text (for stdlib, the Python version) back, or begin a new run")
    check_same_tokenizer(run, data)


def _build_trainer(
    recipe: Recipe, data: PreparedData, device: torch.device, checkpoint: Path | None, world: World | None
) -> tuple[Trainer, int]:
    """A trainer with fresh weights, or with the state of a checkpoint; and the number of steps done."""
    torch.manual_seed(recipe.seed)

    def whole() -> GPT:
        if checkpoint is None:
            return build_gpt(recipe.model, model_vocab_size(recipe, data.tokenizer.vocab_size), recipe.seed)
        model = load_model(checkpoint)
        if world is not None:  # the others go by the recipe
            check_fits(model.config, model.vocab_size, recipe, data.tokenizer, checkpoint)
        return model

    try:
        if world is None:
            batches = training_batches(recipe, data.train, data.tokenizer.vocab_size)
            trainer = Trainer(whole().to(device), batches, recipe.training)
        else:
            trainer = spread_trainer(recipe, data, whole, world)
        first_step = 0 if checkpoint is None else load_state(trainer, checkpoint)
    except RunError as error:
        if checkpoint is None:
            raise
        next_step = f"remove {checkpoint}; --resume then goes on from the checkpoint before it, or begins again where there is none"
        raise RunError(error.what, where=error.where, allowed=error.allowed, next_step=next_step) from error
    if world is None and checkpoint is not None:
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
