"""What the objective makes of the text: the batches of training and evaluation, and the ids that the model has to know.

Knows which parts of the recipe decide that. Must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

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


def spread_batches(make_batches: Callable[[], Iterator[Batch]], num_tokens: int) -> list[Batch]:
    """Whole batches of about so many tokens, from the first of the text to the last that is full.

    Args:
        make_batches: the text in consecutive batches, the same at every call; only the last may be shorter.
        num_tokens: how many are wanted; one batch at least is given.
    """
    sizes = [batch.ids_BS.numel() for batch in make_batches()]
    num_full = sizes.count(sizes[0])
    wanted = min(num_full, max(1, num_tokens // sizes[0]))
    chosen = set(np.linspace(0, num_full - 1, wanted).round().astype(int).tolist())
    return [batch for number, batch in enumerate(make_batches()) if number in chosen]
