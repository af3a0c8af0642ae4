"""Back to the last checkpoint, at a lower learning rate, where a training has left the finite numbers and its recipe allows that.

Knows a training and its checkpoints. Must not know what made the numbers go wrong.
"""

from __future__ import annotations

from pathlib import Path

import torch

from moecli.errors import NotFinite, TrainingError
from moecli.model.checkpoint import load_model
from moecli.model.init import build_gpt
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
    if checkpoint is None:
        vocab_size = model_vocab_size(recipe, job.data.tokenizer.vocab_size)
        trainer.model.load_state_dict(build_gpt(recipe.model, vocab_size, recipe.seed).state_dict())
        return 0
    trainer.model.load_state_dict(load_model(checkpoint).state_dict())
    return load_state(trainer, checkpoint)


def _rewind(job: TrainJob, error: NotFinite) -> int:
    training = job.recipe.training
    if training.on_non_finite == "stop":
        raise error
    number = job.trainer.num_rewinds + 1
    if number > training.max_rewinds:
        what = f"{error.what}; training.max_rewinds ({training.max_rewinds}) allows no more rewinds"
        raise TrainingError(what, where=error.where, next_step=error.next_step) from error
    step = _set_back(job, last_checkpoint(job.run))
    job.trainer.num_rewinds = number
    job.begin_log(step)
    factor = training.rewind_factor**number
    job.append({"step": step, "rewind": number, "learning_rate_factor": factor, "reason": error.what})
    job.listener(Rewound(step, number, factor, error.what))
    return step
