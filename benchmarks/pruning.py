"""Which experts can go? A trained MoE of 16 experts loses 4 or 8 of each layer: by their load, by what they cost to switch off, at random.

    python -m benchmarks.pruning --jobs 3              # seeds 1 2 3, side by side: about 15 core-minutes
    python -m benchmarks.pruning --seeds 1 --steps 50 --further 10 --draws 1

Beside pruning: merging the most alike down to as many, and mlps made of all experts. Each is looked at as it is, and after a short further
training with a fresh optimizer and a small rate, the same text for all; `whole` is the source itself, trained on for as long. Scores come
from training text, losses from validation text.
Knows the workflows, run in this process. Prints a Markdown table, and how the ways of choosing compare.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.runs import RECIPES
from moecli.analysis.seeds import SeedMean, seed_mean
from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.prune import highest
from moecli.recipe.load import load_recipe
from moecli.workflows.eval import evaluate_run
from moecli.workflows.resize import ResizeRequest, resize_run
from moecli.workflows.train import train

RECIPE = RECIPES / "quickstart.yaml"
NUM_EXPERTS = 16
LEFT = (12, 8)
# A quarter of the rate that the training began with: at the full one, so few steps leave even the whole model worse.
FURTHER_RATE = 5.0e-4
MLPS = ("concatenate", "load", "average", "heaviest")


@dataclass(frozen=True)
class Length:
    """Steps of the training and of what follows, sequences of a step, and draws of experts that go at random."""

    steps: int
    further: int
    batch_size: int
    draws: int


@dataclass(frozen=True)
class Arm:
    """One resized model of one seed."""

    params: int
    loss: float
    """Nats per token of the validation text, as it is."""
    further: float | None = None
    """The same after the further training; None where there was none."""


def ignore(event: Any) -> None: ...


def source_run(folder: Path, seed: int, length: Length) -> Path:
    settings = (
        f"model.ffn.num_experts={NUM_EXPERTS}",
        f"seed={seed}",
        f"training.steps={length.steps}",
        f"training.batch_size={length.batch_size}",
        "training.device=cpu",
        "training.checkpoint_every=0",
        "evaluation.every=0",
    )
    return train(load_recipe(RECIPE, settings).recipe, out=folder / "source", listener=ignore).run_dir


def arms_of_seed(folder: Path, seed: int, length: Length) -> dict[str, Arm]:
    """Every arm by its name; of experts that go at random an arm for each draw, the first of them trained on."""
    source = source_run(folder, seed, length)
    settings = (f"training.steps={length.further}", f"training.learning_rate={FURTHER_RATE}", f"seed={seed + 1000}")
    arms: dict[str, Arm] = {}

    def made(name: str, options: ResizeOptions, *, goes_on: bool = True) -> list[list[float] | None]:
        """Adds an arm. Returns the scores of each layer."""
        target = folder / name.replace(" ", "-")
        resizing = resize_run(ResizeRequest(source, target, options, settings), ignore)
        loss = evaluate_run(target).evaluation.loss
        further = None
        if goes_on:
            result = train(load_recipe(target / "recipe.yaml").recipe, out=target, resume=True, listener=ignore)
            further = result.validation.loss
        arms[name] = Arm(resizing.cost.params_total, loss, further)
        print(f"seed {seed}: {name} {loss:.4f} {further}", flush=True)
        return [change.scores for change in resizing.changes]

    made("whole", ResizeOptions("prune", num_experts=NUM_EXPERTS, by="random"))
    costs = made(f"ablation {LEFT[0]}", ResizeOptions("prune", num_experts=LEFT[0], by="ablation"))
    for left in LEFT:
        if left != LEFT[0]:  # by the same scores, which take minutes
            made(f"ablation {left}", ResizeOptions("prune", drop_experts=dropped(costs, left)))
        made(f"load {left}", ResizeOptions("prune", num_experts=left))
        for draw in range(length.draws):
            options = ResizeOptions("prune", num_experts=left, by="random", seed=draw)
            made(f"random {left} {draw}", options, goes_on=draw == 0)
        made(f"merge {left}", ResizeOptions("merge", num_experts=left))
    for merge_by in MLPS:
        made(f"mlp {merge_by}", ResizeOptions("dense", merge_by=merge_by), goes_on=merge_by in MLPS[:2])
    return arms


def one_seed(seed: int, length: Length) -> dict[str, Arm]:
    """The same with the draws' mean, in one thread and a folder of its own."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return with_mean_of_draws(arms_of_seed(Path(folder), seed, length), length.draws)


def dropped(costs: Sequence[list[float] | None], left: int) -> dict[int, tuple[int, ...]]:
    """By layer, the experts that go where so many with the highest costs stay."""
    lists = {}
    for layer, scores in enumerate(costs):
        assert scores is not None
        kept = highest(scores, left)
        lists[layer] = tuple(expert for expert in range(len(scores)) if expert not in kept)
    return lists


def with_mean_of_draws(arms: dict[str, Arm], draws: int) -> dict[str, Arm]:
    """Of the draws of one seed the mean as an arm of its own, in their place."""
    means = {}
    for left in LEFT:
        drawn = [arms[f"random {left} {draw}"] for draw in range(draws)]
        means[f"random {left}"] = Arm(drawn[0].params, sum(arm.loss for arm in drawn) / draws, drawn[0].further)
    names = [
        "whole",
        *(f"{way} {left}" for left in LEFT for way in ("ablation", "load", "random", "merge")),
        *(f"mlp {way}" for way in MLPS),
    ]
    return {name: (arms | means)[name] for name in names}


def shown(mean: SeedMean, *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    interval = f" ({mean.ci95[0]:{sign}.4f} to {mean.ci95[1]:{sign}.4f})" if mean.ci95 else ""
    return f"{mean.mean:{sign}.4f}{interval}"


def row(name: str, per_seed: Sequence[dict[str, Arm]]) -> str:
    arms = [arms[name] for arms in per_seed]
    now = seed_mean([one.loss - arms["whole"].loss for one, arms in zip(arms, per_seed, strict=True)])
    further = [one.further for one in arms if one.further is not None]
    wholes = [arms["whole"].further for arms in per_seed]
    later = seed_mean([one - whole for one, whole in zip(further, wholes, strict=True) if whole is not None]) if further else None
    cells = [
        name,
        f"{arms[0].params:,}",
        f"{seed_mean([arm.loss for arm in arms]).mean:.4f}",
        "" if name == "whole" else shown(now),
        f"{seed_mean(further).mean:.4f}" if further else "",
        "" if name == "whole" or later is None else shown(later),
    ]
    return f"| {' | '.join(cells)} |"


def comparisons(per_seed: Sequence[dict[str, Arm]]) -> list[str]:
    """How two ways of choosing differ, seed by seed."""
    lines = []
    for left in LEFT:
        for better, worse in (("ablation", "load"), ("load", "random"), ("ablation", "random"), ("merge", "load")):
            pairs = [(arms[f"{better} {left}"], arms[f"{worse} {left}"]) for arms in per_seed]
            now = seed_mean([one.loss - other.loss for one, other in pairs])
            later = seed_mean([one.further - other.further for one, other in pairs if one.further and other.further])
            lines.append(f"| {better} less {worse}, {left} left | {shown(now)} | {shown(later)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--further", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time, one thread each")
    arguments = parser.parse_args()
    length = Length(arguments.steps, arguments.further, arguments.batch_size, arguments.draws)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        per_seed = list(pool.map(one_seed, arguments.seeds, [length] * len(arguments.seeds)))
    print("\n| arm | parameters | loss | against whole (95 % over seeds) | after further training | against whole, trained on |")
    print("|---" * 6 + "|")
    for name in per_seed[0]:
        print(row(name, per_seed))
    print("\n| difference | as it is (95 % over seeds) | after further training |\n|---|---|---|")
    print("\n".join(comparisons(per_seed)))


if __name__ == "__main__":
    main()
