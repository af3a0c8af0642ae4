"""What is measured of each arm beside its losses: memory at the height of training, and the speed of generation.

Knows arms and their finished runs. Must not train further than two steps, nor know what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from moecli.errors import RunError
from moecli.evaluation.decode_speed import DecodeRate, DecodeSubject, decode_speeds
from moecli.model.checkpoint import load_model
from moecli.model.device import pick_device
from moecli.model.init import build_gpt
from moecli.training.peak_memory import peak_training_memory
from moecli.training.trainer import Trainer
from moecli.workflows.batches import training_batches
from moecli.workflows.checkpoints import last_checkpoint
from moecli.workflows.compare_arms import Arm
from moecli.workflows.compare_runs import OTHER_PLACE
from moecli.workflows.run_dir import RunDir

PROMPT_TOKENS = 16
NEW_TOKENS = 64
BATCH_SIZE = 8
# A round of a small model takes a few hundredths of a second, in which anything may come between.
FEWEST_ROUNDS, SECONDS = 3, 2.0

Measured = TypeVar("Measured")


@dataclass(frozen=True, slots=True)
class DecodeSpeed:
    """Tokens per second of generation."""

    single: DecodeRate
    """With one sequence."""
    batched: DecodeRate
    """Summed over BATCH_SIZE sequences."""


def measure_peak_memory(arms: Sequence[Arm]) -> list[int]:
    """Bytes of each arm, not compiled. Arms that train the same model on batches of the same shape are measured once."""

    def shape(arm: Arm) -> Hashable:
        training = arm.recipe.training.model_copy(update={"steps": 1, "checkpoint_every": 0, "log_every": 1})
        return arm.recipe.model.model_dump_json(), training.model_dump_json(), arm.recipe.data.seq_len, arm.plan.vocab_size

    return _once_for_each(arms, shape, lambda distinct: [_peak_memory(arm) for arm in distinct])


def measure_decode_speed(arms: Sequence[Arm], runs: Sequence[RunDir]) -> list[DecodeSpeed | None]:
    """Of each arm with the weights that a run ended with, side by side; None for models that can't generate.

    Arms of the same shape are measured once: how long a model was trained does not change how fast it is.
    """
    if arms[0].recipe.objective == "masked-lm":
        return [None] * len(arms)
    run_of = {arm.name: run for arm, run in zip(arms, runs, strict=True)}

    def shape(arm: Arm) -> Hashable:
        training = arm.recipe.training
        return arm.recipe.model.model_dump_json(), training.precision, training.device, arm.plan.vocab_size, arm.data.fingerprint

    return _once_for_each(arms, shape, lambda distinct: _decode_speeds(distinct, [run_of[arm.name] for arm in distinct]))


def _once_for_each(arms: Sequence[Arm], key: Callable[[Arm], Hashable], measure: Callable[[list[Arm]], list[Measured]]) -> list[Measured]:
    """Measures the first arm of each key, and gives each arm the figure of its key."""
    first_of: dict[Hashable, Arm] = {}
    for arm in arms:
        first_of.setdefault(key(arm), arm)
    figure_of = dict(zip(first_of, measure(list(first_of.values())), strict=True))
    return [figure_of[key(arm)] for arm in arms]


def _peak_memory(arm: Arm) -> int:
    recipe, device = arm.recipe, pick_device(arm.recipe.training.device)
    # A compiler would not see that tensors are watched.
    training = recipe.training.model_copy(update={"compile": False})

    def build() -> Trainer:
        torch.manual_seed(recipe.seed)
        batches = training_batches(recipe, arm.data.train, arm.data.tokenizer.vocab_size)
        return Trainer(build_gpt(recipe.model, arm.plan.vocab_size, recipe.seed).to(device), batches, training)

    return peak_training_memory(build, device)


def _decode_speeds(arms: Sequence[Arm], runs: Sequence[RunDir]) -> list[DecodeSpeed | None]:
    subjects = [_decode_subject(arm, run) for arm, run in zip(arms, runs, strict=True)]
    amounts = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS, "rounds": FEWEST_ROUNDS}
    single, batched = (decode_speeds(subjects, batch_size=size, seconds=SECONDS, **amounts) for size in (1, BATCH_SIZE))
    return [DecodeSpeed(one, many) for one, many in zip(single, batched, strict=True)]


def _decode_subject(arm: Arm, run: RunDir) -> DecodeSubject:
    device, checkpoint = pick_device(arm.recipe.training.device), last_checkpoint(run)
    if checkpoint is None:
        raise RunError("there is no checkpoint", where=str(run.checkpoints), next_step=OTHER_PLACE)
    return DecodeSubject(
        model=load_model(checkpoint).to(device),
        ids_BS=_prompts(arm).to(device),
        precision=arm.recipe.training.precision,
        leaks_future=arm.recipe.leaks_future,
    )


def _prompts(arm: Arm) -> Tensor:
    """Validation text from its beginning on, and again where there is too little of it."""
    ids = np.resize(arm.data.validation.ids, (BATCH_SIZE, PROMPT_TOKENS)).astype(np.int64)
    return torch.from_numpy(ids)
