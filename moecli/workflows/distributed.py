"""Several processes that train one recipe: whether all mean the same training, and how each comes to its text and its share of the model.

Knows the world, a recipe and what is compared between processes. Must not know run folders, screens or signals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import moecli
from moecli.data.prepare import PreparedData, prepare
from moecli.errors import RecipeError, RunError
from moecli.model.device import check_memory, pick_device
from moecli.model.gpt import GPT
from moecli.model.skeleton import skeleton
from moecli.parallel.fit import problems_with_world, refuse
from moecli.parallel.plan import Speeds
from moecli.parallel.sharding import spread
from moecli.parallel.world import World
from moecli.recipe.schema import Recipe
from moecli.training.trainer import Trainer
from moecli.workflows.batches import model_vocab_size, training_batches
from moecli.workflows.plan import plan_parallel_training, plan_training
from moecli.workflows.resume import flat


def one_training(recipe: Recipe, options: dict[str, Any], world: World | None) -> World | None:
    """The world as the grid that the recipe asks for, when all processes have been given the same and can do it.

    Args:
        options: those of the call that all have to be given alike.

    Raises:
        RecipeError: they can't; or there is one process, and the recipe wants more.
        RunError: recipes, options or versions differ.
    """
    parallel, training = recipe.parallel, recipe.training
    if world is None:
        if parallel.expert > 1:
            next_step = f"torchrun --nproc-per-node {parallel.expert} -m moecli train RECIPE, or --set parallel.expert=1"
            raise RecipeError(f"parallel.expert is {parallel.expert}, and there is 1 process", next_step=next_step)
        return None
    _check_alike(flat(recipe.model_dump()) | options | {"moecli": moecli.__version__, "torch": torch.__version__}, world)
    sizes = (training.batch_size, training.gradient_accumulation)
    refuse(problems_with_world(recipe.model.ffn, parallel, *sizes, world.size))
    return world.with_expert(parallel.expert)


def prepared(recipe: Recipe, world: World | None) -> PreparedData:
    """The text in tokens. The first process fills the cache, the others read it.

    Raises:
        DataError: the text can't be read.
        RunError: not all processes have the same.
    """
    if world is None:
        return prepare(recipe.data)
    data = world_data = None
    with world.together():
        if world.is_first:
            data = prepare(recipe.data)
    with world.together():
        world_data = data or prepare(recipe.data)
    _check_alike({"the text": world_data.fingerprint, "the tokenizer": world_data.tokenizer.content_hash}, world)
    return world_data


def ready_device(recipe: Recipe, tokenizer_vocab_size: int, world: World | None) -> torch.device:
    """Where this process trains.

    Raises:
        MachineError: there is no such device, or too little memory.
    """
    if world is None:
        device = pick_device(recipe.training.device)
        check_memory(plan_training(recipe, tokenizer_vocab_size).memory.total, device)
        return device
    parallel = plan_parallel_training(recipe, world.size, Speeds(None, None), tokenizer_vocab_size).parallel
    assert parallel is not None
    with world.together():
        check_memory(parallel.memory.total, world.device)
    return world.device


def spread_trainer(recipe: Recipe, data: PreparedData, whole: Callable[[], GPT], world: World) -> Trainer:
    """A trainer of this process's share of the model that the first process makes with `whole`, or loads."""
    vocab_size = data.tokenizer.vocab_size
    with world.together():
        model = whole() if world.is_first else skeleton(recipe.model, model_vocab_size(recipe, vocab_size))
        batches = training_batches(recipe, data.train, vocab_size)
    return Trainer(spread(model, world, recipe.parallel), batches, recipe.training, world)


def _check_alike(own: dict[str, Any], world: World) -> None:
    """Raises RunError, with the keys that differ, where a process has other values than the first."""
    first, *others = world.gather_objects(own)
    for rank, other in enumerate(others, start=1):
        changed = [key for key in sorted(first.keys() | other.keys()) if first.get(key) != other.get(key)]
        if changed:
            lines = [
                f"  {key}: {first.get(key, 'absent')!r} on process 0, {other.get(key, 'absent')!r} on process {rank}" for key in changed
            ]
            next_step = "give every process the same command, recipe, text and versions"
            raise RunError("\n".join(["the processes don't train the same:", *lines]), next_step=next_step)
