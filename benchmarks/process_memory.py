"""How much memory a process of a small training takes at its height, beside what its plan says.

Knows trainings (benchmarks/layouts.py) and fresh processes (benchmarks/pairs.py), one or two for each layout. Measured is by how much the
resident memory grows over that after a tiny training, which has made what torch keeps for itself; once with glibc's allocator as it is,
once with one that maps each tensor by itself and gives it back at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from benchmarks.layouts import REPLICATE, SEQ_LEN, SEQUENCES, SHAPES, TINY, VOCAB_SIZE, build_trainer, gpt, layouts_of, planned
from benchmarks.pairs import in_processes, map_each_tensor, peak_growth
from moecli.model.accounting import training_memory
from moecli.model.config import GPTConfig
from moecli.moe.layers import FeedForwardConfig
from moecli.parallel.config import ParallelConfig
from moecli.parallel.meeting import begin_world

# AdamW makes its moments in the first.
STEPS = 2


def peak_of_training(ffn: FeedForwardConfig, layout: ParallelConfig | None, maps_each_tensor: bool) -> int:
    """Bytes, of a process with SEQUENCES sequences; without a layout it is the only one."""
    if maps_each_tensor:
        map_each_tensor()
    world = None if layout is None else begin_world("cpu", timeout_s=120)

    def train(sequences: int, shape: GPTConfig) -> None:
        trainer = build_trainer(shape, sequences if world is None else 2 * sequences, world, layout or REPLICATE)
        for step in range(STEPS):
            trainer.step(step)

    train(1, TINY)
    grown = peak_growth(partial(train, SEQUENCES, gpt(ffn)))
    if world is not None:
        world.end()
    return grown


@dataclass(frozen=True, slots=True)
class Peak:
    """Bytes of a process with SEQUENCES sequences."""

    resident: int
    tensors: int


def measure_peaks(ffn: FeedForwardConfig) -> dict[str, Peak]:
    layouts: dict[str, ParallelConfig | None] = {"one process": None, **layouts_of(ffn)}
    return {
        name: Peak(*(max(in_processes(1 if layout is None else 2, peak_of_training, ffn, layout, maps)) for maps in (False, True)))
        for name, layout in layouts.items()
    }


def memory_lines(shape: str, peaks: dict[str, Peak]) -> list[str]:
    ffn = SHAPES[shape]
    expected = {"one process": training_memory(gpt(ffn), VOCAB_SIZE, SEQ_LEN, SEQUENCES).total}
    expected |= {name: planned(ffn, 2 * SEQUENCES, layout).memory.total for name, layout in layouts_of(ffn).items()}
    lines = []
    for name, peak in peaks.items():
        cells = [f"{num_bytes / 1e6:.0f}" for num_bytes in (expected[name], peak.tensors, peak.resident)]
        cells += [f"{expected[name] / num_bytes:.2f}" for num_bytes in (peak.tensors, peak.resident)]
        lines.append(f"| {shape} | {name} | {' | '.join(cells)} |")
    return lines
