"""Tokens hidden from a bidirectional model, which has to name them: BERT's masked language modelling (arXiv 1810.04805, section 3.1).

Knows batches and ids. Must not know tokenizers, recipes or models.

Shapes: B sequences, S tokens, P predicted positions of one sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from moecli.data.batches import IGNORED, Batch, TrainBatches

# Of the predicted positions, 80 % show the mask id and 10 % another id. The last 10 % show the token itself, so that the model can't
# take what it sees for wrong.
MASKED_SHARE, REPLACED_SHARE = 0.8, 0.1

Stream = Literal["train", "validation"]
# Never 0: numpy draws the same numbers for the seeds [a, b] and [a, b, 0], and [seed, epoch] is the order of an epoch.
STREAM_NUMBERS: dict[Stream, int] = {"train": 1, "validation": 2}


@dataclass(frozen=True, slots=True)
class Masking:
    """How tokens are hidden. The draw for a sequence depends on the seed, the stream and the number of the sequence alone."""

    rate: float
    """Share of a sequence's tokens that is predicted, rounded to whole tokens, at least one."""
    vocab_size: int
    """Of the tokenizer: the ids that may stand in for a token."""
    seed: int

    @property
    def mask_id(self) -> int:
        """A new id after all of the tokenizer's."""
        return self.vocab_size

    def mask(self, batch: Batch, stream: Stream, first_number: int) -> Batch:
        """The batch with tokens hidden, and those tokens as targets; its first row is sequence `first_number` of the stream."""
        shown_BS, targets_BS = batch.ids_BS.numpy().copy(), np.full(batch.ids_BS.shape, IGNORED, dtype=np.int64)
        for row, (shown_S, targets_S) in enumerate(zip(shown_BS, targets_BS, strict=True)):
            rng = np.random.default_rng([self.seed, first_number + row, STREAM_NUMBERS[stream]])
            places_P = rng.choice(len(shown_S), size=self.num_predicted(len(shown_S)), replace=False)
            targets_S[places_P] = shown_S[places_P]
            shown_S[places_P] = self._shown(targets_S[places_P], rng)
        return Batch(torch.from_numpy(shown_BS), torch.from_numpy(targets_BS), batch.labels, is_masked=True)

    def num_predicted(self, length: int) -> int:
        """Predicted positions of a sequence of so many tokens."""
        return max(1, round(self.rate * length))

    def _shown(self, ids_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the model sees at the predicted positions."""
        others_P = rng.integers(self.vocab_size - 1, size=len(ids_P))
        others_P += others_P >= ids_P  # one id fewer to draw from, and the token's own is stepped over
        draw_P = rng.random(len(ids_P))
        shown_P = np.where(draw_P < MASKED_SHARE + REPLACED_SHARE, others_P, ids_P)
        return np.where(draw_P < MASKED_SHARE, self.mask_id, shown_P)


class MaskedBatches:
    """Training batches without end, masked anew in every epoch. Like those that it wraps, batch i depends on i alone."""

    def __init__(self, batches: TrainBatches, masking: Masking) -> None:
        self._batches = batches
        self._masking = masking
        self.seq_len = batches.seq_len

    def batch(self, index: int) -> Batch:
        """Batch number `index`, from 0."""
        batch = self._batches.batch(index)
        return self._masking.mask(batch, "train", first_number=index * len(batch.ids_BS))


def masked_validation(batches: Iterable[Batch], masking: Masking) -> Iterator[Batch]:
    """Consecutive batches of a text, masked in the same way however they are cut and at every call."""
    number = 0
    for batch in batches:
        yield masking.mask(batch, "validation", first_number=number)
        number += len(batch.ids_BS)
