"""Back to the last checkpoint, at a lower learning rate, where a training has left the finite numbers and its recipe allows that.

Knows a training and its checkpoints. Must not know what made the numbers go wrong.
"""

from __future__ import annotations

from pathlib import Path

import torch

from moecli.errors import NotFinite, TrainingError
from moecli.model.checkpoint import load_model
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.parallel.whole_state import place_tensors, reshard
from moecli.parallel.world import on_first
from moecli.training.loop import run_loop
from moecli.training.state import load_state
from moecli.workflows.batches import model_vocab_size
from moecli.workflows.checkpoints import last_checkpoint
from moecli.workflows.events import Rewound
from moecli.workflows.train_job import TrainJob


def train_with_rewinds(job: TrainJob, first_step: int) -> tuple[int, float]:
    """Trains to the last step. Returns the step of the last beginning, and the seconds that the steps from there took.

    Raises:
        Interrupted: a stop was asked for; the state has been saved.
        TrainingError: numbers are not finite, and the recipe says stop, or has no rewinds left.
    """
    while True:
        try:
            return first_step, run_loop(job.trainer, first_step, job.recipe.evaluation.every, job.hooks())
        except NotFinite as error:
            first_step = _rewind(job, error)


def _set_back(job: TrainJob, checkpoint: Path | None) -> int:
    """Makes the job's trainer what it was at a checkpoint, or, without one, at the beginning. Returns the number of steps done.

    Raises:
        RunError: the checkpoint is damaged.
    """
    recipe, trainer = job.recipe, job.trainer
    torch.manual_seed(recipe.seed)
    trainer.optimizer.state.clear()
    trainer.num_rewinds = 0
    if trainer.world is None:
        trainer.model.load_state_dict(_model_at(job, checkpoint).state_dict())
    else:
        with trainer.world.together():
            whole = _model_at(job, checkpoint).state_dict() if trainer.world.is_first else None
        reshard(trainer.model)
        place_tensors(trainer.model, whole, trainer.world)
    return 0 if checkpoint is None else load_state(trainer, checkpoint)


def _model_at(job: TrainJob, checkpoint: Path | None) -> GPT:
    if checkpoint is not None:
        return load_model(checkpoint)
    return build_gpt(job.recipe.model, model_vocab_size(job.recipe, job.data.tokenizer.vocab_size), job.recipe.seed)


def _rewind(job: TrainJob, error: NotFinite) -> int:
    training = job.recipe.training
    if training.on_non_finite == "stop":
        raise error
    number = job.trainer.num_rewinds + 1
    if number > training.max_rewinds:
        what = f"{error.what}; training.max_rewinds ({training.max_rewinds}) allows no more rewinds"
        raise TrainingError(what, where=error.where, next_step=error.next_step) from error
    world = job.trainer.world
    step = _set_back(job, on_first(world, lambda: last_checkpoint(job.run)))
    job.trainer.num_rewinds = number
    on_first(world, lambda: _tell(job, step, number, error.what))
    return step


def _tell(job: TrainJob, step: int, number: int, reason: str) -> None:
    job.begin_log(step)
    factor = job.recipe.training.rewind_factor**number
    job.append({"step": step, "rewind": number, "learning_rate_factor": factor, "reason": reason})
    job.listener(Rewound(step, number, factor, reason))
