"""`moecli train --dry-run`: what a recipe would cost, on one process or on each of many, counted without building it.

Knows recipe, tokenizer size and accounting. Must not train, allocate or meet other processes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from moecli.data.prepare import prepare
from moecli.model.accounting import ModelCost, TrainingMemory, model_cost, training_memory
from moecli.model.device import Precision
from moecli.parallel.fit import problems_with_world, refuse
from moecli.parallel.plan import ParallelPlan, Speeds, plan_parallel
from moecli.parallel.plan_traffic import StepShape
from moecli.recipe.schema import Recipe
from moecli.training.config import TrainingConfig
from moecli.workflows.batches import model_vocab_size

COMPUTE_BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}
"""Of one number in matrix products."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Exact parameters and FLOPs; memory as tensors need it, without the allocator's and the libraries' own."""

    vocab_size: int
    """Of the model."""
    cost: ModelCost
    memory: TrainingMemory
    """On one process."""
    parallel: ParallelPlan | None = None
    """On each of several processes, where their number was given; else `parallel` in the recipe is of no account."""

    def to_json(self) -> dict[str, Any]:
        parallel = {} if self.parallel is None else {"parallel": self.parallel.to_json()}
        return {
            "vocab_size": self.vocab_size,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "params_active_without_embedding": self.cost.params_active_without_embedding,
            "params_active_without_embedding_and_head": self.cost.params_active_without_embedding_and_head,
            "flops_per_token": self.cost.train_flops_per_token,
            "memory_bytes": asdict(self.memory),
            **parallel,
        }


def plan_training(recipe: Recipe, tokenizer_vocab_size: int | None = None) -> TrainingPlan:
    """Counts a recipe. A size that isn't given is taken from the tokenizer's config, or from its corpus where only that can tell."""
    if tokenizer_vocab_size is None:
        tokenizer_vocab_size = recipe.data.tokenizer.known_vocab_size or prepare(recipe.data).tokenizer.vocab_size
    vocab_size = model_vocab_size(recipe, tokenizer_vocab_size)
    seq_len = recipe.data.seq_len
    return TrainingPlan(
        vocab_size=vocab_size,
        cost=model_cost(recipe.model, vocab_size, seq_len, _forward_passes_ahead(recipe.training)),
        memory=training_memory(
            recipe.model,
            vocab_size,
            seq_len,
            recipe.training.micro_batch_size,
            recompute_activations=recipe.training.recompute_activations,
        ),
    )


def plan_parallel_training(recipe: Recipe, num_processes: int, speeds: Speeds, tokenizer_vocab_size: int | None = None) -> TrainingPlan:
    """The same, and what each of so many processes would have of it.

    Raises:
        RecipeError: the recipe can't be shared out over them, by the rules that hold when they are started.
    """
    training, ffn = recipe.training, recipe.model.ffn
    sizes = (training.batch_size, training.gradient_accumulation)
    refuse(problems_with_world(ffn, recipe.parallel, *sizes, num_processes))
    plan = plan_training(recipe, tokenizer_vocab_size)
    step = StepShape(
        seq_len=recipe.data.seq_len,
        micro_batch_size=training.micro_batch_size,
        gradient_accumulation=training.gradient_accumulation,
        passes_ahead=_forward_passes_ahead(training),
        recomputes=training.recompute_activations,
        row_bytes=COMPUTE_BYTES[training.precision],
    )
    flops = plan.cost.train_flops_per_token
    return replace(plan, parallel=plan_parallel(recipe.model, plan.vocab_size, step, recipe.parallel, num_processes, flops, speeds))


def _forward_passes_ahead(training: TrainingConfig) -> int:
    """To judge balance over a step of several micro-batches, the trainer first lets all of them through the model."""
    return int(training.balance_scope == "global-batch" and training.gradient_accumulation > 1)
