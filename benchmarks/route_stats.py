"""What `route-stats` costs: its pass over the text against that of `eval`, and the whole command.

    python -m benchmarks.route_stats RUN              # a trained run, such as that of `make quickstart`

The passes run in one process, in turn, on the same batches; the ratio is that of the medians. The command runs in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.runs import moecli_json
from moecli.analysis.load_report import LoadCollector
from moecli.analysis.sample import SampleCollector
from moecli.data.batches import Batch
from moecli.evaluation.evaluate import Observer, evaluate
from moecli.moe.routing import RoutingRecord
from moecli.workflows.opened_run import OpenedRun, open_run


def collecting(opened: OpenedRun) -> Observer:
    """What route-stats does with each batch."""
    loads = LoadCollector()
    sampler = SampleCollector(131_072, opened.tokenizer.end_of_text_id, opened.tokens.label_names)

    def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
        loads.add(records)
        sampler.add(batch, records)

    return observe


def seconds(opened: OpenedRun, observe: Observer | None) -> float:
    started = time.perf_counter()
    evaluate(opened.model, opened.batches(), opened.tokens.num_bytes, opened.recipe.training.precision, observe)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    opened = open_run(arguments.run)
    seconds(opened, collecting(opened))  # a warm-up
    plain, collected = [], []
    for _ in range(arguments.rounds):
        plain.append(seconds(opened, None))
        collected.append(seconds(opened, collecting(opened)))
    tokens = len(opened.tokens.ids) - 1
    speed, speed_collected = tokens / statistics.median(plain), tokens / statistics.median(collected)
    ratios = sorted(one / other for one, other in zip(plain, collected, strict=True))
    print(f"eval        {speed:>10,.0f} tokens/s, {min(plain):.3f} to {max(plain):.3f} s over {arguments.rounds} rounds")
    print(f"route-stats {speed_collected:>10,.0f} tokens/s, {min(collected):.3f} to {max(collected):.3f} s")
    print(f"ratio       {speed_collected / speed:.3f}; pair by pair {ratios[0]:.3f} to {ratios[-1]:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        moecli_json("route-stats", str(arguments.run), "--out", f"{folder}/report")
        print(f"moecli route-stats RUN: {time.perf_counter() - started:.1f} s from start to end")


if __name__ == "__main__":
    main()
