"""Does a trained router specialise in domains that are known, and does a router that draws lots not? Over seeds.

    python -m benchmarks.specialisation                 # seeds 1 2 3: about 6 minutes on 2 CPU cores, two trainings at a time
    python -m benchmarks.specialisation --seeds 1

Knows the command line alone (runs.py). Prints a Markdown table: of each router and layer how much the expert tells of the domain, beside
what shuffled documents give.
"""

from __future__ import annotations

import argparse
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.runs import RECIPES, moecli_json, train

ROUTERS = {
    "learned (topk)": (),
    "drawn by lot (random)": ("model.ffn.router={kind: random, top_k: 2}",),
    "by token id (hash)": ("model.ffn.router={kind: hash, top_k: 2}",),
}


def row(name: str, seed: int, val_loss: float, layer: dict[str, Any]) -> str:
    null = layer["nmi_null"]
    cells = [
        name,
        str(seed),
        f"{val_loss:.4f}",
        str(layer["layer"]),
        f"{layer['nmi']:.5f}",
        f"{null['low']:.5f} to {null['high']:.5f}",
        f"{layer['nmi_corrected']:.4f}",
        f"{layer['p_value']:.3f}",
        "beyond chance" if layer["significant"] else "chance",
        str(sum(sign != 0 for signs in layer["special"] for sign in signs)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one thread each")
    arguments = parser.parse_args()
    work = [(name, overrides, seed) for name, overrides in ROUTERS.items() for seed in arguments.seeds]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:

        def run(number: int) -> tuple[float, dict[str, Any]]:
            _, overrides, seed = work[number]
            out = Path(folder) / str(number)
            trained = train(RECIPES / "synthetic.yaml", (f"seed={seed}", "evaluation.every=0", *overrides), out, threads=1)
            return trained.result["val_loss"], moecli_json("route-stats", str(out), "--by", "domain", threads=1)

        results = list(pool.map(run, range(len(work))))
    print(
        "| router | seed | val loss | layer | NMI | by chance | corrected | p | verdict | cells of 32 beyond chance |",
        "|---" * 10 + "|",
        sep="\n",
    )
    for (name, _, seed), (val_loss, stats) in zip(work, results, strict=True):
        for layer in stats["specialisation"][0]["layers"]:
            print(row(name, seed, val_loss, layer), flush=True)


if __name__ == "__main__":
    main()
