"""What it saves a training step on a CPU that the process keeps freed memory (moecli/cli/freed_memory.py): time, page faults, memory.

    python -m benchmarks freed-memory                       # about 5 minutes on 2 CPU cores
    python -m benchmarks freed-memory --rounds 15 --json freed_memory.json

Knows fresh models, random ids, and fresh processes that take turns, with and without it: each trains a few steps to warm up, then says
the median of its next steps, and its page faults, its seconds in the system and its peak of resident memory. Where the environment sets up
glibc's allocator (MALLOC_TRIM_THRESHOLD_ and the like) there is nothing to compare: both are as the user wants them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.rounds import machine, number_of_rounds, ratios, spread
from benchmarks.step import SameBatch
from moecli.cli.freed_memory import keep_freed_memory
from moecli.data.batches import Batch
from moecli.model.config import GPTConfig
from moecli.model.init import build_gpt
from moecli.moe.layers import FeedForwardConfig, MLPConfig, SparseMoEConfig
from moecli.moe.routers import TopKConfig
from moecli.training.config import TrainingConfig
from moecli.training.trainer import Trainer

WARM_UP_STEPS = 3
WITH, WITHOUT = "with", "without"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the model, its batch, and how many steps are measured."""

    d_model: int
    num_heads: int
    sequences: int
    seq_len: int
    vocab_size: int
    steps: int


SHAPES = {
    "small": Shape(d_model=128, num_heads=4, sequences=12, seq_len=64, vocab_size=65, steps=20),
    "larger": Shape(d_model=512, num_heads=8, sequences=8, seq_len=256, vocab_size=8192, steps=6),
}
BLOCKS: dict[str, Callable[[int], FeedForwardConfig]] = {
    "mlp": lambda d_model: MLPConfig(d_ff=4 * d_model),
    "sparse": lambda d_model: SparseMoEConfig(num_experts=8, d_expert=2 * d_model, router=TopKConfig(top_k=2)),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one process; faults and system milliseconds are those of a step."""

    seconds: float
    faults: float
    system_ms: float
    peak_bytes: int


def build_trainer(shape: Shape, block: str) -> Trainer:
    config = GPTConfig(
        d_model=shape.d_model, num_layers=4, num_heads=shape.num_heads, activation="swiglu", ffn=BLOCKS[block](shape.d_model)
    )
    ids = torch.randint(shape.vocab_size, (shape.sequences, shape.seq_len + 1), generator=torch.Generator().manual_seed(0))
    batch = SameBatch(Batch(ids[:, :-1], ids[:, 1:], {}), shape.seq_len)
    training = TrainingConfig(steps=1000, batch_size=shape.sequences, device="cpu")
    return Trainer(build_gpt(config, shape.vocab_size, seed=0), batch, training)


def measure(shape: Shape, block: str) -> Measured:
    """In this process."""
    trainer = build_trainer(shape, block)
    for step in range(WARM_UP_STEPS):
        trainer.step(step)
    seconds = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    for step in range(shape.steps):
        started = time.perf_counter()
        trainer.step(WARM_UP_STEPS + step)
        seconds.append(time.perf_counter() - started)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return Measured(
        seconds=statistics.median(seconds),
        faults=(after.ru_minflt - before.ru_minflt) / shape.steps,
        system_ms=1e3 * (after.ru_stime - before.ru_stime) / shape.steps,
        peak_bytes=1024 * after.ru_maxrss,  # in KiB on Linux
    )


def in_fresh_process(shape: str, block: str, way: str) -> Measured:
    call = [sys.executable, "-m", "benchmarks.freed_memory", "--measure", shape, block, way]
    return Measured(**json.loads(subprocess.run(call, stdout=subprocess.PIPE, check=True, text=True).stdout))


def row(shape: str, block: str, ways: dict[str, list[Measured]]) -> str:
    def both(value: Callable[[Measured], float], digits: int = 0) -> str:
        return " / ".join(f"{statistics.median(map(value, ways[way])):,.{digits}f}" for way in (WITHOUT, WITH))

    times = {way: [one.seconds for one in measured] for way, measured in ways.items()}
    peaks = {way: [float(one.peak_bytes) for one in measured] for way, measured in ways.items()}
    cells = [shape, block, both(lambda one: 1e3 * one.seconds, 1), spread(ratios(times, WITH, WITHOUT))]
    cells += [both(lambda one: one.faults), both(lambda one: one.system_ms, 1), spread(ratios(peaks, WITH, WITHOUT))]
    return f"| {' | '.join(cells)} |"


def compare(rounds: int) -> dict[str, dict[str, list[Measured]]]:
    """All that was measured, by `shape, block` and way. Prints a row as soon as it is known."""
    print("| shape | block | ms per step without / with | ratio | faults per step without / with | system ms | peak memory, ratio |")
    print("|---|---|---|---|---|---|---|")
    measured: dict[str, dict[str, list[Measured]]] = {}
    for shape in SHAPES:
        for block in BLOCKS:
            ways: dict[str, list[Measured]] = {WITHOUT: [], WITH: []}
            for _ in range(rounds):
                for way, of_way in ways.items():
                    of_way.append(in_fresh_process(shape, block, way))
            print(row(shape, block, ways), flush=True)
            measured[f"{shape}, {block}"] = ways
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=5)
    parser.add_argument("--json", type=Path, help="write all that was measured there too")
    parser.add_argument("--measure", nargs=3, metavar=("SHAPE", "BLOCK", "WAY"), help="measure in this process, and print one line of JSON")
    arguments = parser.parse_args()
    if arguments.measure:
        shape, block, way = arguments.measure
        if way == WITH:
            keep_freed_memory()
        print(json.dumps(asdict(measure(SHAPES[shape], block))))
        return
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as moecli does, so that another process on the cores does not stop a step for long
    print(f"{machine(torch.device('cpu'))}, float32, {arguments.rounds} rounds\n")
    measured = compare(arguments.rounds)
    if arguments.json:
        lists = {name: {way: [asdict(one) for one in of_way] for way, of_way in ways.items()} for name, ways in measured.items()}
        arguments.json.write_text(json.dumps(lists) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
