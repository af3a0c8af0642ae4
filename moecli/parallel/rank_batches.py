"""The share of each batch that one process takes.

Knows batches and the world. Must not know models or losses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch

from moecli.data.batches import IGNORED, Batch
from moecli.parallel.world import World


class WholeBatches(Protocol):
    """Batches of the whole world."""

    seq_len: int

    def batch(self, index: int) -> Batch: ...


def evaluation_rows(num_rows: int, world: World) -> range:
    """Those of a batch of any number of rows that this process evaluates; none where there are fewer rows than processes."""
    return range(world.rank * num_rows // world.size, (world.rank + 1) * num_rows // world.size)


def evaluation_share(batch: Batch, world: World) -> Batch:
    """This process's rows of a batch to evaluate. One without rows gets the first, because every forward pass is one of all processes, and
    nothing is to be predicted there."""
    rows = evaluation_rows(len(batch.ids_BS), world)
    if rows:
        return _rows(batch, slice(rows.start, rows.stop))
    spare = _rows(batch, slice(0, 1))
    return replace(spare, targets_BS=torch.full_like(spare.targets_BS, IGNORED))


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
        assert num_rows * self._world.size == len(batch.ids_BS), "check_world lets no other batch pass"
        rows = slice(self._world.rank * num_rows, (self._world.rank + 1) * num_rows)
        return _rows(batch, rows)


def _rows(batch: Batch, rows: slice) -> Batch:
    labels = {kind: label_BS[rows] for kind, label_BS in batch.labels.items()}
    return replace(batch, ids_BS=batch.ids_BS[rows], targets_BS=batch.targets_BS[rows], labels=labels)
