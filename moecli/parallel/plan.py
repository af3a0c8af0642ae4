"""What a training costs each process of a world of any size: memory, exchanges and, at given speeds, seconds.

Knows shapes and how the engine spreads them. Must not know torch.distributed: nothing is started, and nothing allocated.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moecli.model.accounting import ADAMW_STATES, FLOAT32_BYTES, training_memory
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.skeleton import skeleton
from moecli.moe.layers import SparseMoE
from moecli.parallel.config import ParallelConfig
from moecli.parallel.plan_traffic import Bytes, PlannedTraffic, StepShape, all_to_all_of_layer, planned_traffic
from moecli.parallel.plan_units import Units, units_of

# Of a row that came to an expert: its place in the queue, int64, and its weight.
FLOATS_OF_A_ROW = 2 + 1


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes of one process; where not all have the same share, of the one with the most."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """Of one micro-batch, with even routing."""
    gathered: int
    """What sharing costs at the height of a step: weights that were fetched, and gradients that are not yet added up."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.gathered


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of a step, if nothing overlaps. None where the speed that it takes was not given."""

    all_to_all_s: float | None
    communication_s: float | None
    """All-to-all, and what weights and gradients take."""
    computation_s: float | None

    @property
    def step_s(self) -> float | None:
        return None if self.communication_s is None or self.computation_s is None else self.communication_s + self.computation_s

    @property
    def communication_share(self) -> float | None:
        """Of the step."""
        return None if self.step_s is None or self.communication_s is None else self.communication_s / self.step_s


@dataclass(frozen=True, slots=True)
class ParallelPlan:
    """Of each process of a world."""

    num_processes: int
    config: ParallelConfig
    sequences_per_micro_batch: int
    tokens_per_step: int
    memory: ProcessMemory
    traffic: PlannedTraffic
    moe_layers: int
    """Layers whose tokens travel."""
    all_to_all_layer: Bytes
    """Of each of them."""
    time: StepTime

    def to_json(self) -> dict[str, Any]:
        kinds = {
            kind: {"handed_bytes": passed["handed"], "leaving_bytes": round(passed["leaving"])}
            for kind, passed in asdict(self.traffic).items()
        }
        return {
            "processes": self.num_processes,
            "data": self.config.data,
            "expert": self.config.expert,
            "sequences_per_micro_batch": self.sequences_per_micro_batch,
            "tokens_per_step": self.tokens_per_step,
            "memory_bytes": asdict(self.memory) | {"total": self.memory.total},
            "traffic": kinds,
            "all_to_all_layers": self.moe_layers,
            "all_to_all_layer_bytes": self.all_to_all_layer.handed,
            "all_to_all_leaving_share": (self.config.expert - 1) / self.config.expert,
            **asdict(self.time),
            "step_s": self.time.step_s,
            "communication_share": self.time.communication_share,
        }


@dataclass(frozen=True, slots=True)
class Speeds:
    """What the machines reach. None: not said."""

    bytes_per_s: float | None = None
    """Out of one process, while as many come in."""
    flops_per_s: float | None = None
    """Of one process's device, of the FLOPs that moecli counts."""


def plan_parallel(
    config: GPTConfig, vocab_size: int, step: StepShape, parallel: ParallelConfig, num_processes: int, flops_per_token: int, speeds: Speeds
) -> ParallelPlan:
    """Counts one process's part of a training. What fit.py refuses can't be planned.

    Args:
        flops_per_token: of training.
    """
    assert step.micro_batch_size % num_processes == 0 and num_processes % parallel.expert == 0, "see problems_with_world"
    model = skeleton(config, vocab_size)
    units = units_of(model, parallel, num_processes)
    traffic = planned_traffic(model, units, step, num_processes, parallel.expert)
    of_layers = [all_to_all_of_layer(ffn, step, num_processes, parallel.expert) for ffn in _travelling(model, parallel)]
    tokens_per_step = step.gradient_accumulation * step.tokens_per_micro_batch(num_processes)
    bandwidth, speed = speeds.bytes_per_s, speeds.flops_per_s
    return ParallelPlan(
        num_processes=num_processes,
        config=parallel,
        sequences_per_micro_batch=step.micro_batch_size // num_processes,
        tokens_per_step=tokens_per_step,
        memory=_memory(model, units, step, parallel, num_processes),
        traffic=traffic,
        moe_layers=len(of_layers),
        all_to_all_layer=of_layers[0] if of_layers else Bytes(),
        time=StepTime(
            all_to_all_s=None if bandwidth is None else traffic.all_to_all.leaving / bandwidth,
            communication_s=None if bandwidth is None else traffic.leaving / bandwidth,
            computation_s=None if speed is None else tokens_per_step * flops_per_token / speed,
        ),
    )


def _travelling(model: GPT, parallel: ParallelConfig) -> list[SparseMoE]:
    """The feed-forward blocks whose tokens travel."""
    return [ffn for ffn in model.feed_forwards() if isinstance(ffn, SparseMoE) and parallel.expert > 1]


def _memory(model: GPT, units: Units, step: StepShape, parallel: ParallelConfig, num_processes: int) -> ProcessMemory:
    rows = step.micro_batch_size // num_processes
    kept = FLOAT32_BYTES * units.kept
    activations = training_memory(model.config, model.vocab_size, step.seq_len, rows, recompute_activations=step.recomputes).activations
    of_rows = [_row_floats(ffn, model.config.d_model) for ffn in _travelling(model, parallel)]
    # Recomputed activations are those of one block at a time.
    row_floats = max(of_rows, default=0) if step.recomputes else sum(of_rows)
    return ProcessMemory(
        weights=kept,
        gradients=kept,
        optimizer=ADAMW_STATES * kept,
        activations=activations + round(FLOAT32_BYTES * step.tokens_per_micro_batch(num_processes) * row_floats),
        gathered=0 if num_processes == 1 else _gathered_bytes(units, step.gradient_accumulation),
    )


def _row_floats(ffn: SparseMoE, d_model: int) -> float:
    """Numbers per token that autograd keeps of rows that travel: as they came to an expert, as they came back, and those weighed."""
    return ffn.router.assignments_per_token * (3 * d_model + FLOATS_OF_A_ROW)


def _gathered_bytes(units: Units, gradient_accumulation: int) -> int:
    """Sharded: weights and gradients of the root, weights of the block at work and of the next, gradients of it and of the one before.

    Not sharded, FSDP computes with a copy of the weights, which a block gives up as its gradient comes. With one micro-batch that copy
    takes the room of gradients that are still to come, so that two blocks' gradients are what is more; with several it comes on top.
    """
    if units.is_sharded:
        floats = 2 * units.root.whole + 4 * units.largest_block
    elif gradient_accumulation == 1:
        floats = 2 * units.largest_block
    else:
        floats = units.kept + units.largest_block
    return FLOAT32_BYTES * floats
