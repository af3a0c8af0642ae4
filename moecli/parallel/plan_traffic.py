"""Bytes that processes exchange in a training step, counted without processes: what traffic.py would measure.

Knows when the spread model calls which collective, and what a ring does with it. Must not know torch.distributed.
"""

from __future__ import annotations

from dataclasses import dataclass

from moecli.model.gpt import GPT
from moecli.moe.layers import SparseMoE
from moecli.parallel.plan_units import Unit, Units

FLOAT32_BYTES = 4
INT64_BYTES = 8


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a training step does, as far as the plan asks."""

    seq_len: int
    """Tokens per sequence."""
    micro_batch_size: int
    """Sequences of all processes that go through the model at once."""
    gradient_accumulation: int
    """Micro-batches per step."""
    passes_ahead: int
    """Forward passes over the whole step before its own, to judge balance: 0 or 1."""
    recomputes: bool
    """Whether backward does the forward pass of each block again."""
    row_bytes: int
    """Of one number of a token on its way to an expert: of the precision of matrix products."""

    def tokens_per_micro_batch(self, num_processes: int) -> int:
        """Of one process."""
        return self.micro_batch_size // num_processes * self.seq_len


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of one process and step."""

    handed: int = 0
    """Put into collectives, what is for the process itself included."""
    leaving: float = 0.0
    """Sent to other processes, with rings and, of all-to-all, with even routing. Just as many come in."""

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.handed + other.handed, self.leaving + other.leaving)

    def __mul__(self, times: int) -> Bytes:
        return Bytes(self.handed * times, self.leaving * times)


@dataclass(frozen=True, slots=True)
class PlannedTraffic:
    """Of one process and step, by kind of collective. Losses, loads and the norm of the gradient, a few kB, are not in it."""

    all_to_all: Bytes
    """Tokens to their experts and back."""
    all_gather: Bytes
    """Sharded weights, fetched."""
    reduce_scatter: Bytes
    """Gradients, added up and sharded."""
    all_reduce: Bytes
    """Gradients, added up and whole on every process."""

    @property
    def leaving(self) -> float:
        return sum(kind.leaving for kind in (self.all_to_all, self.all_gather, self.reduce_scatter, self.all_reduce))


def all_to_all_of_layer(ffn: SparseMoE, step: StepShape, num_processes: int, expert: int) -> Bytes:
    """Rows and counts that one layer exchanges per process and step, X = `expert`.

    Each of T tokens has A/T assignments, whose rows of D numbers go to their experts and come back, in the forward pass and, as gradients,
    in the backward pass: 4 * T * A/T * D numbers. Each further forward pass adds 2. Before rows travel in a forward pass, the E counts of
    rows per expert do. Exact as the mean over processes for routers that give every token as many experts and drop nothing (what one
    process gives back depends on how many rows its experts got); where choices are dropped, the most.
    """
    if expert == 1:
        return Bytes()
    num_experts, d_model, _ = ffn.experts.out_proj.shape
    forward_passes = 1 + step.passes_ahead + int(step.recomputes)
    rows = round(step.tokens_per_micro_batch(num_processes) * ffn.router.assignments_per_token)
    of_rows = (2 * forward_passes + 2) * rows * d_model * step.row_bytes
    handed = step.gradient_accumulation * (of_rows + forward_passes * num_experts * INT64_BYTES)
    return Bytes(handed, handed * (expert - 1) / expert)


def planned_traffic(model: GPT, units: Units, step: StepShape, num_processes: int, expert: int) -> PlannedTraffic:
    """All that one process exchanges in a step. One alone has nobody to exchange with."""
    if num_processes == 1:
        return PlannedTraffic(Bytes(), Bytes(), Bytes(), Bytes())
    layers = [all_to_all_of_layer(ffn, step, num_processes, expert) for ffn in model.feed_forwards() if isinstance(ffn, SparseMoE)]
    of_blocks = [unit for block in units.blocks for unit in block]
    passes = step.gradient_accumulation
    if not units.is_sharded:
        all_reduce = sum((_all_reduce(unit) for unit in (units.root, *of_blocks)), start=Bytes())
        return PlannedTraffic(sum(layers, start=Bytes()), Bytes(), Bytes(), all_reduce)
    # A block is fetched for each forward and each backward pass; the root stays from one forward to the next backward.
    gathered = _all_gather(units.root) * passes
    for unit in of_blocks:
        gathered += _all_gather(unit) * (passes * (2 + step.passes_ahead))
    scattered = sum((_reduce_scatter(unit) * passes for unit in (units.root, *of_blocks)), start=Bytes())
    return PlannedTraffic(sum(layers, start=Bytes()), gathered, scattered, Bytes())


def _all_gather(unit: Unit) -> Bytes:
    """In a ring each process sends its shard and all that passes through: n - 1 of n shards."""
    if unit.group_size == 1:
        return Bytes()
    shard = FLOAT32_BYTES * unit.kept
    return Bytes(shard, shard * (unit.group_size - 1))


def _reduce_scatter(unit: Unit) -> Bytes:
    """The same ring, with n shards handed over and sums passing through."""
    if unit.group_size == 1:
        return Bytes()
    shard = FLOAT32_BYTES * unit.kept
    return Bytes(shard * unit.group_size, shard * (unit.group_size - 1))


def _all_reduce(unit: Unit) -> Bytes:
    """A reduce-scatter and an all-gather: 2 (n - 1) / n of what is handed over. FSDP hands gradients to a group of one too."""
    whole = FLOAT32_BYTES * unit.whole
    return Bytes(whole, whole * 2 * (unit.group_size - 1) / unit.group_size)
