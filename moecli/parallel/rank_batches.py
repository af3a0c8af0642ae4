"""The share of each batch that one process takes.

Knows batches and the world. Must not know models or losses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from moecli.data.batches import Batch
from moecli.parallel.world import World


class WholeBatches(Protocol):
    """Batches of the whole world."""

    seq_len: int

    def batch(self, index: int) -> Batch: ...


class RankBatches:
    """Of batch i of M sequences, rank r has sequences r * M/W to (r + 1) * M/W: all ranks together have the batch of one process."""

    def __init__(self, batches: WholeBatches, world: World) -> None:
        self.seq_len = batches.seq_len
        self._batches = batches
        self._world = world

    def batch(self, index: int) -> Batch:
        """This process's rows of batch number `index`, from 0."""
        batch = self._batches.batch(index)
        num_rows = len(batch.ids_BS) // self._world.size
        assert num_rows * self._world.size == len(batch.ids_BS), "check_fits lets no other batch pass"
        rows = slice(self._world.rank * num_rows, (self._world.rank + 1) * num_rows)
        labels = {kind: label_BS[rows] for kind, label_BS in batch.labels.items()}
        return replace(batch, ids_BS=batch.ids_BS[rows], targets_BS=batch.targets_BS[rows], labels=labels)
