"""What the objective makes of the text: the batches of training and evaluation, and the ids that the model has to know.

Knows which parts of the recipe decide that. Must not know models.
"""

from __future__ import annotations

from collections.abc import Iterator

from moecli.data.batches import Batch, TrainBatches, validation_batches
from moecli.data.masking import MaskedBatches, Masking, masked_validation
from moecli.data.token_split import TokenSplit
from moecli.recipe.schema import Recipe

# Runs with different seeds are judged by the same hidden tokens.
EVALUATION_SEED = 0


def model_vocab_size(recipe: Recipe, tokenizer_vocab_size: int) -> int:
    """The ids of the model: those of the tokenizer, and for masked-lm the mask id after them."""
    return tokenizer_vocab_size + 1 if recipe.objective == "masked-lm" else tokenizer_vocab_size


def training_batches(recipe: Recipe, split: TokenSplit, tokenizer_vocab_size: int) -> TrainBatches | MaskedBatches:
    """Micro-batches to train on.

    Raises:
        DataError: the split is shorter than one of them.
    """
    batches = TrainBatches(split, recipe.data.seq_len, recipe.training.micro_batch_size, recipe.seed)
    if recipe.objective != "masked-lm":
        return batches
    return MaskedBatches(batches, Masking(recipe.training.mask_rate, tokenizer_vocab_size, recipe.seed))


def evaluation_batches(recipe: Recipe, split: TokenSplit, tokenizer_vocab_size: int) -> Iterator[Batch]:
    """A whole split, the same at every call."""
    batches = validation_batches(split, recipe.data.seq_len, recipe.evaluation.batch_size)
    if recipe.objective != "masked-lm":
        return batches
    return masked_validation(batches, Masking(recipe.training.mask_rate, tokenizer_vocab_size, EVALUATION_SEED))
