"""Is a dense model better off as an MoE? The quickstart's dense twin, upcycled and trained on, against the same model trained on as it is.

    python -m benchmarks.upcycling                                       # seeds 1 2 3: about half an hour on 2 CPU cores
    python -m benchmarks.upcycling --seeds 1 --steps 50 --further 50 --arms granular

All arms begin at the same dense checkpoint, see the same further tokens in the same order, and have a fresh schedule; the optimizer is
fresh too, but for the arms that end with `carried`.
`granular` costs as many FLOPs per token as the dense model, but for the router; `copies`, `drop` and `shared` use two networks of its
width for each token. The dense model that is fairer to these is `wider`: of twice the width, trained from the start for as many tokens.
Knows the command line (runs.py). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runs import RECIPES, moecli_json, train

RECIPE = RECIPES / "quickstart.yaml"
WIDTH = 256
EXPERTS = ("model.ffn.kind=sparse", "model.ffn.num_experts=8", "model.ffn.router.top_k=2")
WHOLE = (*EXPERTS, f"model.ffn.d_expert={WIDTH}")
SHARDS = (*EXPERTS, f"model.ffn.d_expert={WIDTH // 2}")

# The arm's name, the options of `moecli convert`, and what is laid over the recipe.
ARMS: list[tuple[str, tuple[str, ...], tuple[str, ...]]] = [
    ("continued-carried", ("--to", "moecli", "--carry-optimizer"), ()),
    ("granular", ("--upcycle", "granular"), SHARDS),
    ("granular-carried", ("--upcycle", "granular", "--carry-optimizer"), SHARDS),
    ("copies", ("--upcycle", "copies"), WHOLE),
    ("copies-carried", ("--upcycle", "copies", "--carry-optimizer"), WHOLE),
    ("drop", ("--upcycle", "drop", "--drop-ratio", "0.5"), WHOLE),
    ("shared", ("--upcycle", "copies"), (*WHOLE, "model.ffn.router.top_k=1", "model.ffn.num_shared_experts=1")),
]
WIDER = "wider"


@dataclass(frozen=True)
class Length:
    """Steps of the dense training and of what follows, and sequences of a step."""

    steps: int
    further: int
    batch_size: int


def dense(folder: Path, seed: int, width: int, steps: int, batch_size: int) -> dict[str, Any]:
    shape = ("model.ffn.kind=mlp", f"model.ffn.d_ff={width}")
    training = (f"training.steps={steps}", f"training.batch_size={batch_size}", f"seed={seed}", "evaluation.every=0")
    return train(RECIPE, (*shape, *training), folder, threads=1).result


def converted(source: Path, target: Path, options: tuple[str, ...], overrides: tuple[str, ...]) -> None:
    settings = [text for override in overrides for text in ("--set", override)]
    moecli_json("convert", str(source), str(target), *options, *settings)


def trained_on(run: Path, start: float) -> dict[str, Any]:
    """The figures of an arm: its loss before its first step, less that of the dense model, and after its last."""
    first = moecli_json("eval", str(run), threads=1)["loss"]
    result = moecli_json("train", str(run / "recipe.yaml"), "--out", str(run), "--resume", threads=1)
    names = ("val_loss", "params_total", "params_active", "flops_per_token")
    return {name: result[name] for name in names} | {"jump": first - start}


def arms_of_seed(folder: Path, seed: int, length: Length, names: list[str]) -> dict[str, dict[str, Any]]:
    """Every arm's figures. Another seed for what follows is another order of the text."""
    source = folder / f"dense-{seed}"
    start = dense(source, seed, WIDTH, length.steps, length.batch_size)["val_loss"]
    further = (f"training.steps={length.further}", f"seed={seed + 1000}")
    converted(source, folder / f"continued-{seed}", ("--to", "moecli"), further)
    figures = {"continued dense": trained_on(folder / f"continued-{seed}", start)}
    for name, options, overrides in (arm for arm in ARMS if arm[0] in names):
        target = folder / f"{name}-{seed}"
        draws = ("--seed", str(seed)) if "--upcycle" in options else ()
        converted(source, target, (*options, *draws), (*overrides, *further))
        figures[name] = trained_on(target, start)
    if WIDER in names:
        figures[WIDER] = dense(folder / f"wider-{seed}", seed, 2 * WIDTH, length.steps + length.further, length.batch_size) | {"jump": None}
    print(f"seed {seed}: dense {start:.4f}, " + ", ".join(f"{name} {arm['val_loss']:.4f}" for name, arm in figures.items()), flush=True)
    return figures


def row(name: str, arms: list[dict[str, Any]], against: list[dict[str, Any]]) -> str:
    from moecli.analysis.seeds import seed_mean

    loss = seed_mean([arm["val_loss"] for arm in arms])
    gap = seed_mean([arm["val_loss"] - other["val_loss"] for arm, other in zip(arms, against, strict=True)])
    interval = f" ({gap.ci95[0]:+.4f} to {gap.ci95[1]:+.4f})" if gap.ci95 else ""
    jumps = [abs(arm["jump"]) for arm in arms if arm["jump"] is not None]
    cells = [
        name,
        f"{arms[0]['params_total']:,}",
        f"{arms[0]['params_active']:,}",
        f"{arms[0]['flops_per_token']:,}",
        f"{max(jumps):.1e}" if jumps else "",
        f"{loss.mean:.4f}",
        "" if arms is against else f"{gap.mean:+.4f}{interval}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--further", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=2, help="seeds at a time, one thread each")
    every_arm = [*(name for name, _, _ in ARMS), WIDER]
    parser.add_argument("--arms", nargs="+", choices=every_arm, default=every_arm)
    arguments = parser.parse_args()
    length = Length(arguments.steps, arguments.further, arguments.batch_size)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        per_seed = list(pool.map(lambda seed: arms_of_seed(Path(folder), seed, length, arguments.arms), arguments.seeds))
    print("\n| arm | parameters | active | training FLOPs/token | jump at the start | loss | against continued dense (95 % over seeds) |")
    print("|---" * 7 + "|")
    for name in per_seed[0]:
        print(row(name, [figures[name] for figures in per_seed], [figures["continued dense"] for figures in per_seed]))


if __name__ == "__main__":
    main()
