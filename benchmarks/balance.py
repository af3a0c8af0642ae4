"""Do the balance rules do at small scale what their papers say? Loss and load of each rule, over seeds.

    python -m benchmarks.balance                       # all tables, seeds 1 2 3: about an hour on 2 CPU cores, two trainings at a time
    python -m benchmarks.balance bias --seeds 1        # one table, one seed
    python -m benchmarks.balance bias --arms neither   # one arm of it

Knows the command line alone (runs.py). Prints Markdown tables: means over the seeds, and each seed's value where the claim is about it.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.runs import RECIPES, train

NOISY = "shazeer-noisy-topk"
SIGMOID = "deepseek-v3"
# What is laid over every arm of a table. The collapse of the first takes longer to cost something.
SETTINGS: dict[str, tuple[str, ...]] = {
    "losses": ("training.steps=1200",),
    "bias": ("training.steps=600",),
    "controls": ("training.steps=300",),
}
NO_LOSS = ("training.balance_loss=0", "training.bias_update=null")

# Table by table: the arm's name, its recipe, and what is laid over it.
TABLES: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    # Shazeer et al. 2017, table 6: (w_importance, w_load).
    "losses": [
        (f"importance {importance}, load {load}", NOISY, (f"training.importance_loss={importance}", f"training.load_loss={load}"))
        for importance, load in ((0.0, 0.0), (0.01, 0.01), (0.1, 0.1))
    ],
    # Wang et al. 2024 (arXiv 2408.15664), table 2: an auxiliary loss against the bias.
    "bias": [
        ("neither", SIGMOID, NO_LOSS),
        ("loss 0.001", SIGMOID, ("training.balance_loss=0.001", "training.bias_update=null", "training.balance_counts=chosen")),
        ("loss 0.01", SIGMOID, ("training.balance_loss=0.01", "training.bias_update=null", "training.balance_counts=chosen")),
        ("bias, sign 0.001", SIGMOID, ("training.balance_loss=0", "training.bias_update.rate=0.001")),
        (
            "bias, proportional 0.002",
            SIGMOID,
            ("training.balance_loss=0", "training.bias_update.rule=proportional", "training.bias_update.rate=0.002"),
        ),
    ],
    # Does a learned router beat none? The controls have the same experts and the same top_k.
    "controls": [
        ("learned", "mixtral", ()),
        ("hash", "mixtral", ("model.ffn.router={kind: hash, top_k: 2}",)),
        ("random", "mixtral", ("model.ffn.router={kind: random, top_k: 2}",)),
    ],
}
FIGURES = ("cv_load", "cv_importance", "max_violation", "dead_experts")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def row(arm: str, results: list[dict[str, Any]]) -> str:
    losses = [result["val_loss"] for result in results]
    perplexity = mean([result["perplexity"] for result in results])
    cells = [arm, f"{mean(losses):.4f}", ", ".join(f"{loss:.4f}" for loss in losses), f"{perplexity:.2f}"]
    for figure in FIGURES:
        values = [result["load"]["mean"][figure] for result in results]
        cells.append(f"{mean(values):.3f} ({', '.join(f'{value:.3g}' for value in values)})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", default=list(TABLES), help=", ".join(TABLES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", help="the arms of the tables to train, by name; default: all of them")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="laid over every arm")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        for table in arguments.tables:
            arms = [arm for arm in TABLES[table] if arguments.arms is None or arm[0] in arguments.arms]
            work = [(arm, recipe, overrides, seed) for arm, recipe, overrides in arms for seed in arguments.seeds]

            def run(task: tuple[str, str, tuple[str, ...], int], table: str = table) -> dict[str, Any]:
                arm, recipe, overrides, seed = task
                out = Path(folder) / f"{table}-{arm}-{seed}"
                settings = (f"seed={seed}", *SETTINGS[table], "evaluation.every=0", *overrides, *arguments.overrides)
                return train(RECIPES / f"{recipe}.yaml", settings, out, threads=1).result

            results = list(pool.map(run, work))
            print(f"\n{table}, seeds {arguments.seeds}\n")
            print(
                "| rule | val loss | per seed | perplexity | load CV | importance CV | MaxVio | dead experts |", "|---" * 8 + "|", sep="\n"
            )
            for index, (arm, _, _) in enumerate(arms):
                print(row(arm, results[index * len(arguments.seeds) : (index + 1) * len(arguments.seeds)]), flush=True)


if __name__ == "__main__":
    main()
