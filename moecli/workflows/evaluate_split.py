"""The loss of a model on a split, as every command reports it: same windows, same batches, same precision.

Knows which parts of the recipe decide that. Must not know which command asks.
"""

from __future__ import annotations

from moecli.data.batches import validation_batches
from moecli.data.token_split import TokenSplit
from moecli.evaluation.evaluate import Evaluation, Observer, evaluate
from moecli.model.gpt import GPT
from moecli.recipe.schema import Recipe


def evaluate_split(model: GPT, recipe: Recipe, split: TokenSplit, observe: Observer | None = None) -> Evaluation:
    """Pure cross-entropy over all tokens of a split."""
    batches = validation_batches(split, recipe.data.seq_len, recipe.evaluation.batch_size)
    return evaluate(model, batches, split.num_bytes, recipe.training.precision, observe)
