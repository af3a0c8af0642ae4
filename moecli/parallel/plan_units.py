"""What a process keeps of a model that is spread over a world, counted without processes.

Knows how sharding.py lays out parameters. Must not know torch.distributed, nor what is done with the counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from moecli.model.gpt import GPT
from moecli.moe.layers import SparseMoE
from moecli.parallel.config import ParallelConfig


@dataclass(frozen=True, slots=True)
class Unit:
    """Parameters that FSDP fetches together and whose gradients it adds up together: how many, on one process."""

    whole: int
    """Those that the process computes with."""
    kept: int
    """Those that it keeps; where a parameter can't be cut evenly, as many as the process with the largest share."""
    group_size: int
    """Processes that compute with the same ones."""


@dataclass(frozen=True, slots=True)
class Units:
    """All parameters of a model, and who shares them."""

    root: Unit
    """Embedding, last norm and output layer: fetched once per forward and backward pass, and whole in between."""
    blocks: tuple[tuple[Unit, ...], ...]
    """Of each block its own unit, and one of its expert stacks where experts are shared out."""
    is_sharded: bool

    @property
    def kept(self) -> int:
        return self.root.kept + sum(unit.kept for block in self.blocks for unit in block)

    @property
    def largest_block(self) -> int:
        """Parameters that a process computes with in the largest block."""
        return max(sum(unit.whole for unit in block) for block in self.blocks)


def units_of(model: GPT, parallel: ParallelConfig, num_processes: int) -> Units:
    """How `model` (its shapes are all that is read) would lie on each of so many processes, a multiple of parallel.expert."""
    is_sharded = parallel.data == "shard"
    blocks = []
    in_blocks: set[nn.Parameter] = set()
    for block, ffn in zip(model.blocks, model.feed_forwards(), strict=True):
        stacks = set(ffn.experts.parameters()) if parallel.expert > 1 and isinstance(ffn, SparseMoE) else set()
        shared = [parameter.shape for parameter in block.parameters() if parameter not in stacks]
        own = [_unit(shared, num_processes, is_sharded=is_sharded)]
        if stacks:
            local = [(stack.shape[0] // parallel.expert, *stack.shape[1:]) for stack in stacks]
            own.append(_unit(local, num_processes // parallel.expert, is_sharded=is_sharded))
        blocks.append(tuple(own))
        in_blocks.update(block.parameters())
    root = [parameter.shape for parameter in model.parameters() if parameter not in in_blocks]
    return Units(_unit(root, num_processes, is_sharded=is_sharded), tuple(blocks), is_sharded)


def shard_dim(shape: Sequence[int], num_shards: int) -> int:
    """The first dimension that gives even shards, or else the first. 8 stacked experts on 64 processes would leave 56 with nothing."""
    even = [dim for dim, length in enumerate(shape) if length % num_shards == 0]
    return even[0] if even else 0


def _unit(shapes: Iterable[Sequence[int]], group_size: int, *, is_sharded: bool) -> Unit:
    shapes = list(shapes)
    whole = sum(math.prod(shape) for shape in shapes)
    kept = sum(_largest_shard(shape, group_size) for shape in shapes) if is_sharded else whole
    return Unit(whole, kept, group_size)


def _largest_shard(shape: Sequence[int], num_shards: int) -> int:
    """Numbers in the largest shard, to whose size FSDP pads all others."""
    cut = shape[shard_dim(shape, num_shards)]
    return math.prod(shape) // cut * math.ceil(cut / num_shards)
