"""`moecli train --dry-run`: what a recipe would cost, counted without building it.

Knows recipe, tokenizer size and accounting. Must not train or allocate.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moecli.data.prepare import prepare
from moecli.model.accounting import ModelCost, TrainingMemory, model_cost, training_memory
from moecli.recipe.schema import Recipe
from moecli.training.config import TrainingConfig
from moecli.workflows.batches import model_vocab_size


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Exact parameters and FLOPs; memory as tensors need it, without the allocator's and the libraries' own."""

    vocab_size: int
    """Of the model."""
    cost: ModelCost
    memory: TrainingMemory

    def to_json(self) -> dict[str, Any]:
        return {
            "vocab_size": self.vocab_size,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "params_active_without_embedding": self.cost.params_active_without_embedding,
            "params_active_without_embedding_and_head": self.cost.params_active_without_embedding_and_head,
            "flops_per_token": self.cost.train_flops_per_token,
            "memory_bytes": asdict(self.memory),
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


def _forward_passes_ahead(training: TrainingConfig) -> int:
    """To judge balance over a step of several micro-batches, the trainer first lets all of them through the model."""
    return int(training.balance_scope == "global-batch" and training.gradient_accumulation > 1)
