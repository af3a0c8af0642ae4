"""The loss of a model on a split, as every command reports it, and the audit of it: same windows, same batches, same precision.

Knows which parts of the recipe decide that. Must not know which command asks.
"""

from __future__ import annotations

from moecli.data.token_split import TokenSplit
from moecli.evaluation.audit import Audit, audit
from moecli.evaluation.evaluate import Evaluation, Observer, evaluate
from moecli.model.gpt import GPT
from moecli.parallel.world import World
from moecli.recipe.schema import Recipe
from moecli.workflows.batches import evaluation_batches


def evaluate_split(
    model: GPT,
    recipe: Recipe,
    split: TokenSplit,
    tokenizer_vocab_size: int,
    observe: Observer | None = None,
    world: World | None = None,
) -> Evaluation:
    """Pure cross-entropy over all tokens of a split, or for masked-lm over the same hidden ones at every call."""
    batches = evaluation_batches(recipe, split, tokenizer_vocab_size)
    return evaluate(model, batches, split.num_bytes, recipe.training.precision, observe, world)


def audit_split(model: GPT, recipe: Recipe, split: TokenSplit, tokenizer_vocab_size: int) -> Audit:
    """What the tokens of the first batch of that evaluation depend on."""
    batch = next(iter(evaluation_batches(recipe, split, tokenizer_vocab_size)))
    return audit(model, batch.ids_BS, recipe.training.precision)
