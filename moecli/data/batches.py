"""Ids to batches of tensors, in an order that a seed decides and that can be taken up anywhere.

Knows torch and splits. Must not know corpora, tokenizers, models or training.

Shapes: B sequences, S tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from moecli.data.token_split import TokenSplit
from moecli.errors import DataError

# The target where nothing is to be predicted: torch's cross-entropy leaves it out.
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of tokens, what is to be predicted at each, and what is known about it."""

    ids_BS: Tensor
    """int64."""
    targets_BS: Tensor
    """int64: the token after each of `ids_BS`; in a masked batch the token that is hidden there, and IGNORED where none is."""
    labels: dict[str, Tensor]
    """From the name of a label to [B, S] int64: the labels of `ids_BS`, numbered as in `TokenSplit.label_names`."""
    is_masked: bool = False
    """Whether tokens of `ids_BS` are hidden or replaced, and `targets_BS` has the text's own at their places."""

    @property
    def text_ids_BS(self) -> Tensor:
        """int64: the tokens of the text, none of them hidden."""
        return torch.where(self.targets_BS == IGNORED, self.ids_BS, self.targets_BS) if self.is_masked else self.ids_BS

    def to(self, device: torch.device) -> Batch:
        """On a device. CUDA takes a copy of memory that can't change under it, so that nothing has to wait for it."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=device.type == "cuda")

        labels = {kind: moved(label_BS) for kind, label_BS in self.labels.items()}
        return replace(self, ids_BS=moved(self.ids_BS), targets_BS=moved(self.targets_BS), labels=labels)


class TrainBatches:
    """Batches without end. Batch i depends on nothing but the split, the sizes, the seed and i, so resuming needs only i.

    The split is cut into windows of seq_len + 1 tokens at a stride of seq_len. Each epoch goes through all windows in an order of its
    own; a batch may lie across the border of two epochs.
    """

    def __init__(self, split: TokenSplit, seq_len: int, batch_size: int, seed: int) -> None:
        """Raises DataError where the split is shorter than one batch."""
        needed = batch_size * seq_len + 1
        if len(split.ids) < needed:
            raise DataError(
                f"one batch needs {needed:,} tokens ({batch_size} sequences of {seq_len}, and one), there are {len(split.ids):,}",
                where=f"data, split {split.name}",
                next_step="lower training.batch_size or data.seq_len, or add text",
            )
        self._split = split
        self.seq_len = seq_len
        self._batch_size = batch_size
        self._seed = seed
        self.windows_per_epoch = (len(split.ids) - 1) // seq_len
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def batch(self, index: int) -> Batch:
        """Batch number `index`, from 0."""
        numbers = range(index * self._batch_size, (index + 1) * self._batch_size)
        windows = [self._window(number) for number in numbers]
        starts_B = np.asarray(windows, dtype=np.int64) * self.seq_len
        return _batch(self._split, starts_B, self.seq_len)

    def _window(self, number: int) -> int:
        epoch, place = divmod(number, self.windows_per_epoch)
        if epoch != self._epoch:
            # The order of one epoch is kept only so that it is not drawn again for every batch.
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self.windows_per_epoch)
            self._epoch = epoch
        return int(self._order[place])


def validation_batches(split: TokenSplit, seq_len: int, batch_size: int) -> Iterator[Batch]:
    """Consecutive windows that make every token but the first a target exactly once.

    The last window may be shorter than seq_len; then it is a batch of its own, and nothing is padded.
    """
    num_targets = len(split.ids) - 1
    starts = np.arange(0, num_targets - seq_len + 1, seq_len)
    for first in range(0, len(starts), batch_size):
        yield _batch(split, starts[first : first + batch_size], seq_len)
    rest = num_targets % seq_len
    if rest:
        yield _batch(split, np.asarray([num_targets - rest]), rest)


def _batch(split: TokenSplit, starts_B: np.ndarray, length: int) -> Batch:
    places = starts_B[:, None] + np.arange(length + 1)
    ids = torch.from_numpy(split.ids[places].astype(np.int64))
    labels = {kind: torch.from_numpy(values[places[:, :-1]].astype(np.int64)) for kind, values in split.labels.items()}
    return Batch(ids[:, :-1], ids[:, 1:], labels)
