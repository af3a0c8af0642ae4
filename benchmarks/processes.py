"""How a training step scales from one process to two, of one thread each, on this machine, and what its plan says about it.

    python -m benchmarks processes --json processes.json   # Linux; less than 4 minutes on 2 CPU cores

Knows trainings and their plans (benchmarks/layouts.py). Two processes on gloo, for one shape after the other. In each round all of these
take a turn: a step of one process while the other waits; of both with nothing to say to each other, which is the machine's ceiling; of both
together with the same batch and with twice of it; and plain collectives of the sizes that the plan has. Then a few steps are watched. The
plan is given the speed of the one process and the bandwidth of the plain collectives. Memory: benchmarks/process_memory.py.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch
import torch.distributed as dist

from benchmarks.layouts import (
    BATCHES,
    D_MODEL,
    REPLICATE,
    SEQ_LEN,
    SEQUENCES,
    SHAPES,
    VOCAB_SIZE,
    build_trainer,
    flops_per_token,
    gpt,
    layouts_of,
    planned,
)
from benchmarks.pairs import in_processes
from benchmarks.process_memory import measure_peaks, memory_lines
from benchmarks.rounds import Seconds, number_of_rounds, ratios, spread, take_turns
from moecli.model.skeleton import skeleton
from moecli.moe.layers import FeedForwardConfig, SparseMoE
from moecli.parallel.config import ParallelConfig
from moecli.parallel.meeting import begin_world
from moecli.parallel.plan import ParallelPlan, Speeds
from moecli.parallel.plan_traffic import PlannedTraffic
from moecli.parallel.plan_units import units_of
from moecli.parallel.traffic import Traffic
from moecli.parallel.world import World
from moecli.training.trainer import Trainer

WATCHED_STEPS, COLLECTIVES_PER_TURN = 3, 10
SPEED_HEAD = "shape | layout | batch | ms per step | tokens/s | efficiency | of the ceiling"
PLAN_HEAD = "shape | layout, batch | planned ms | over measured | GB/s given | planned share of exchange | measured | planned MB | measured"
MEMORY_HEAD = "shape | layout | planned MB | tensors | resident | planned over tensors | over resident"


def seconds_of(call: Callable[[], object]) -> float:
    """Of a call that both processes begin at once."""
    dist.barrier()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def collectives(ffn: FeedForwardConfig) -> dict[str, tuple[Callable[[], object], int]]:
    """Of each kind a plain call, and the bytes that leave a process in it: a block's weights, and a layer's rows of SEQUENCES sequences."""
    model = skeleton(gpt(ffn), VOCAB_SIZE)
    weights, block = units_of(model, REPLICATE, 2).largest_block // 2 * 2, model.feed_forwards()[0]
    rows = SEQUENCES * SEQ_LEN * round(block.router.assignments_per_token if isinstance(block, SparseMoE) else 1) * D_MODEL
    whole, half, sent, received = torch.ones(weights), torch.ones(weights // 2), torch.ones(rows), torch.ones(rows)
    return {
        "all_reduce": (partial(dist.all_reduce, whole), 4 * weights),
        "all_gather": (partial(dist.all_gather_into_tensor, whole, half), 2 * weights),
        "reduce_scatter": (partial(dist.reduce_scatter_tensor, half, whole), 2 * weights),
        "all_to_all": (partial(dist.all_to_all_single, received, sent), 2 * rows),
    }


def repeated(call: Callable[[], object]) -> None:
    for _ in range(COLLECTIVES_PER_TURN):
        call()


@dataclass(frozen=True, slots=True)
class Watched:
    """Of a step, the mean over processes."""

    handed_bytes: float
    share: float
    """In which something was under way, the wait for the other process included."""


def watched(trainer: Trainer, world: World) -> Watched:
    started = time.perf_counter()
    with Traffic() as traffic:
        for step in range(WATCHED_STEPS):
            trainer.step(step)
    took = time.perf_counter() - started
    of_both = world.gather_objects((traffic.bytes / WATCHED_STEPS, traffic.seconds / took))
    return Watched(*(fmean(pair) for pair in zip(*of_both, strict=True)))


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one shape."""

    seconds: Seconds
    """Of a step, or of one collective; of both processes, of the later one."""
    leaving: dict[str, int]
    """Bytes of the plain collectives."""
    watched: dict[str, Watched]


def measure_shape(ffn: FeedForwardConfig, world: World, rounds: int) -> Measured:
    alone, half = build_trainer(gpt(ffn), SEQUENCES), build_trainer(gpt(ffn), SEQUENCES // 2)
    spread_out = {
        f"{name}, {size}": build_trainer(gpt(ffn), sequences, world, layout)
        for name, layout in layouts_of(ffn).items()
        for size, sequences in BATCHES.items()
    }
    plain = collectives(ffn)
    steps: dict[str, Callable[[], object]] = {
        "alone": (lambda: alone.step(0)) if world.is_first else (lambda: None),
        "ceiling, same batch": lambda: half.step(0),
        "ceiling, twice the batch": lambda: alone.step(0),
    }
    steps |= {name: partial(trainer.step, 0) for name, trainer in spread_out.items()}
    calls = {name: partial(seconds_of, step) for name, step in steps.items()}
    calls |= {kind: partial(seconds_of, partial(repeated, call)) for kind, (call, _) in plain.items()}
    of_both = world.gather_objects(take_turns(calls, rounds))
    seconds = {name: [max(pair) for pair in zip(*(own[name] for own in of_both), strict=True)] for name in calls}
    seconds |= {kind: [turn / COLLECTIVES_PER_TURN for turn in seconds[kind]] for kind in plain}
    leaving = {kind: leaves for kind, (_, leaves) in plain.items()}
    return Measured(seconds, leaving, {name: watched(trainer, world) for name, trainer in spread_out.items()})


def measure(rounds: int) -> dict[str, Measured]:
    """In each of the two processes."""
    warnings.filterwarnings("ignore", message=".* is deprecated", category=FutureWarning)  # collectives that torch 2.13 renames
    world = begin_world("cpu", timeout_s=120)
    measured = {name: measure_shape(ffn, world, rounds) for name, ffn in SHAPES.items()}
    world.end()
    return measured


def bandwidth(traffic: PlannedTraffic, measured: Measured) -> float:
    """Bytes per second out of one process, if all that a step exchanges goes as the plain collective of its kind went."""
    leaving = {kind: passed["leaving"] for kind, passed in asdict(traffic).items()}
    took = {kind: leaves * median(measured.seconds[kind]) / measured.leaving[kind] for kind, leaves in leaving.items()}
    return sum(leaving.values()) / sum(took.values())


def speed(ffn: FeedForwardConfig, measured: Measured) -> float:
    """FLOP/s of one process while the other waits."""
    return SEQUENCES * SEQ_LEN * flops_per_token(ffn) / median(measured.seconds["alone"])


def plan_of(ffn: FeedForwardConfig, sequences: int, layout: ParallelConfig, measured: Measured) -> ParallelPlan:
    """With seconds."""
    traffic = planned(ffn, sequences, layout).traffic
    return planned(ffn, sequences, layout, Speeds(bandwidth(traffic, measured), speed(ffn, measured)))


def plans_of(shape: str, measured: Measured) -> dict[str, ParallelPlan]:
    """By the name of the step."""
    ffn = SHAPES[shape]
    return {
        f"{name}, {size}": plan_of(ffn, sequences, layout, measured)
        for size, sequences in BATCHES.items()
        for name, layout in layouts_of(ffn).items()
    }


def speed_lines(shape: str, measured: Measured) -> list[str]:
    seconds = measured.seconds
    alone = SEQUENCES * SEQ_LEN / median(seconds["alone"])
    lines = [f"| {shape} | one process | | {1e3 * median(seconds['alone']):.0f} | {alone:,.0f} | | |"]
    for size, sequences in BATCHES.items():
        ceiling = f"ceiling, {size}"
        for label in [ceiling, *(name for name in measured.watched if name.endswith(size))]:
            layout = label.removesuffix(f", {size}")
            efficiency = [sequences / SEQUENCES / 2 * ratio for ratio in ratios(seconds, "alone", label)]
            cells = [shape, layout, size, f"{1e3 * median(seconds[label]):.0f}", f"{sequences * SEQ_LEN / median(seconds[label]):,.0f}"]
            cells += [spread(efficiency), spread(ratios(seconds, ceiling, label)) if label != ceiling else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def plan_lines(shape: str, measured: Measured) -> list[str]:
    lines = []
    for name, plan in plans_of(shape, measured).items():
        watched_step, time_of = measured.watched[name], plan.time
        assert time_of.step_s is not None and time_of.communication_s is not None and time_of.communication_share is not None
        handed = sum(passed["handed"] for passed in asdict(plan.traffic).values())
        cells = [f"{1e3 * time_of.step_s:.0f}", spread([time_of.step_s / second for second in measured.seconds[name]])]
        cells += [f"{plan.traffic.leaving / time_of.communication_s / 1e9:.2f}"]
        cells += [f"{time_of.communication_share:.1%}", f"{watched_step.share:.1%}"]
        cells += [f"{handed / 1e6:.3f}", f"{watched_step.handed_bytes / 1e6:.3f}"]
        lines.append(f"| {shape} | {name} | {' | '.join(cells)} |")
    return lines


def table(head: str, lines: list[str]) -> str:
    return "\n".join([f"| {head} |", "|---" * len(head.split(" | ")) + "|", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=number_of_rounds, default=7)
    parser.add_argument("--json", type=Path, help="write every measured second, byte and plan there too")
    arguments = parser.parse_args()
    print(f"1 thread per process, torch {torch.__version__}, float32, {arguments.rounds} rounds\n", flush=True)
    peaks = {shape: measure_peaks(ffn) for shape, ffn in SHAPES.items()}
    measured = in_processes(2, measure, arguments.rounds)[0]
    print(table(SPEED_HEAD, [line for shape in SHAPES for line in speed_lines(shape, measured[shape])]))
    print(table(PLAN_HEAD, [line for shape in SHAPES for line in plan_lines(shape, measured[shape])]))
    print(table(MEMORY_HEAD, [line for shape in SHAPES for line in memory_lines(shape, peaks[shape])]))
    if arguments.json:
        shapes = {
            shape: asdict(of_shape)
            | {"plans": {name: plan.to_json() for name, plan in plans_of(shape, of_shape).items()}}
            | {"peaks": {name: asdict(peak) for name, peak in peaks[shape].items()}}
            for shape, of_shape in measured.items()
        }
        arguments.json.write_text(json.dumps(shapes) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
