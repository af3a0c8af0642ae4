"""What `moecli train --dry-run` shows: a recipe's cost, and each process's part of it.

Knows plans. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from moecli.cli.words import counted, num_bytes, precise_seconds
from moecli.parallel.plan import ParallelPlan
from moecli.parallel.plan_traffic import Bytes
from moecli.workflows.plan import TrainingPlan


def print_plan(console: Console, plan: TrainingPlan, notes: Sequence[str]) -> None:
    """What a recipe would cost."""
    cost = plan.cost
    table = Table(show_header=False, box=None)
    table.add_row("vocabulary", f"{plan.vocab_size:,}")
    table.add_row("parameters, total", f"{cost.params_total:,}")
    table.add_row("parameters, active per token", f"{cost.params_active:,}")
    table.add_row("  of these without the input embedding", f"{cost.params_active_without_embedding:,}")
    table.add_row("  and without the output layer", f"{cost.params_active_without_embedding_and_head:,}")
    table.add_row("FLOPs per token, forward", f"{cost.forward_flops_per_token:,}")
    table.add_row("FLOPs per token, training", f"{cost.train_flops_per_token:,}")
    if plan.parallel is None:
        for name, count in asdict(plan.memory).items():
            table.add_row(f"memory, {name}", num_bytes(count))
        table.add_row("memory, together", num_bytes(plan.memory.total))
    console.print(table)
    if plan.parallel is not None:
        _print_parallel(console, plan, plan.parallel)
    for note in notes:
        _say(console, f"note: {note}")


def _print_parallel(console: Console, plan: TrainingPlan, parallel: ParallelPlan) -> None:
    config = parallel.config
    _say(console, "")
    processes, sequences = counted(parallel.num_processes, "process", "es"), counted(parallel.sequences_per_micro_batch, "sequence")
    _say(console, f"{processes}, parallel.data {config.data}, parallel.expert {config.expert}; to each of them,")
    _say(console, f"{parallel.tokens_per_step:,} tokens per step, {sequences} at a time")
    console.print(_memory_table(plan, parallel))
    console.print(_traffic_table(parallel))
    if config.expert > 1:
        share = (config.expert - 1) / config.expert
        _say(console, f"all-to-all per layer and step: {num_bytes(parallel.all_to_all_layer.handed)} in {parallel.moe_layers} layers; ")
        _say(console, f"even routing sends {share:.1%} of it away")
    _print_time(console, parallel)


def _memory_table(plan: TrainingPlan, parallel: ParallelPlan) -> Table:
    table = Table("memory", box=None)
    table.add_column("each process", justify="right")
    table.add_column("one alone", justify="right")
    alone = asdict(plan.memory)
    for name, count in asdict(parallel.memory).items():
        table.add_row(f"  {name}", num_bytes(count), num_bytes(alone[name]) if name in alone else "")
    table.add_row("  together", num_bytes(parallel.memory.total), num_bytes(plan.memory.total))
    return table


def _traffic_table(parallel: ParallelPlan) -> Table:
    table = Table("exchanged per step", box=None)
    table.add_column("handed over", justify="right")
    table.add_column("leaves the process", justify="right")
    traffic = parallel.traffic
    kinds = {"all-to-all": traffic.all_to_all, "all-gather": traffic.all_gather}
    kinds |= {"reduce-scatter": traffic.reduce_scatter, "all-reduce": traffic.all_reduce}
    for name, passed in kinds.items():
        if passed != Bytes():
            table.add_row(f"  {name}", num_bytes(passed.handed), num_bytes(passed.leaving))
    return table


def _print_time(console: Console, parallel: ParallelPlan) -> None:
    time = parallel.time
    if time.communication_s is not None and time.all_to_all_s is not None:
        parts = f"{precise_seconds(time.communication_s)}, of which all-to-all {precise_seconds(time.all_to_all_s)}"
        _say(console, f"exchange per step: {parts}")
    if time.computation_s is not None:
        _say(console, f"computation per step: {precise_seconds(time.computation_s)}")
    if time.communication_share is not None:
        _say(console, f"share of exchange in the step, if nothing overlaps: {time.communication_share:.1%}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
