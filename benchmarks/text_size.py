"""How much of MaxVio is the text: over the whole training text, over parts of it as long as the held-out text, and over the held-out text.

    python -m benchmarks.text_size RUN [RUN ...]

A bias balances the load of the documents that it was trained on. A few documents, whether it has seen them or not, prefer some experts.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from moecli.analysis.load_report import LoadCollector
from moecli.data.batches import Batch
from moecli.evaluation.evaluate import evaluate
from moecli.moe.routing import RoutingRecord
from moecli.workflows.opened_run import Split, open_run


def max_violations(run: Path, split: Split, part_tokens: int | None) -> list[float]:
    """MaxVio, mean over layers, of each consecutive part of so many tokens; of the whole split if None."""
    opened = open_run(run, split=split)
    collectors = [LoadCollector()]
    tokens = 0

    def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
        nonlocal tokens
        if part_tokens is not None and tokens >= part_tokens:
            collectors.append(LoadCollector())
            tokens = 0
        collectors[-1].add(records)
        tokens += batch.ids_BS.numel()

    evaluate(opened.model, opened.batches(), opened.tokens.num_bytes, opened.recipe.training.precision, observe)
    if part_tokens is not None and tokens < part_tokens and len(collectors) > 1:
        collectors.pop()  # a rest
    return [mean for collector in collectors if (mean := collector.report().mean()["max_violation"]) is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    print("| run | held-out text | training text | parts of it: mean | smallest | largest | parts |", "|---" * 7 + "|", sep="\n")
    for run in parser.parse_args().runs:
        size = len(open_run(run).tokens.ids) - 1
        (held_out,), (training,) = max_violations(run, "validation", None), max_violations(run, "train", None)
        parts = max_violations(run, "train", size)
        figures = (held_out, training, statistics.mean(parts), min(parts), max(parts))
        print(f"| {run.name} | {' | '.join(f'{figure:.3f}' for figure in figures)} | {len(parts)} |", flush=True)


if __name__ == "__main__":
    main()
