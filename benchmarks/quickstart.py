"""The quickstart against the same recipe with an mlp of equal active width, over seeds: loss, load, time, memory.

    python -m benchmarks.quickstart            # seeds 1 2 3, about 10 minutes on 2 CPU cores
    python -m benchmarks.quickstart --seeds 1

Knows the command line alone (runs.py). Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import RECIPES, Measured, train

RECIPE = RECIPES / "quickstart.yaml"


@dataclass(frozen=True)
class Arm:
    """One side of the comparison."""

    name: str
    overrides: tuple[str, ...]


def arms() -> list[Arm]:
    """The MoE as the recipe has it, and the mlp whose width is that of all experts that a token uses."""
    from moecli.moe.layers import SparseMoEConfig
    from moecli.recipe.load import load_recipe

    ffn = load_recipe(RECIPE).recipe.model.ffn
    assert isinstance(ffn, SparseMoEConfig) and ffn.d_expert is not None
    active_width = ffn.d_expert * ffn.router.model_dump()["top_k"]
    return [Arm("sparse", ()), Arm("mlp", ("model.ffn.kind=mlp", f"model.ffn.d_ff={active_width}"))]


def smallest_load(measured: Measured) -> float | None:
    """The load of the least used expert of any layer, in multiples of the even share."""
    layers = measured.result["load"]["layers"]
    return min(share * layer["num_experts"] for layer in layers for share in layer["load"]) if layers else None


def row(arm: Arm, seed: int, measured: Measured) -> str:
    smallest = smallest_load(measured)
    result = measured.result
    cells = [
        arm.name,
        str(seed),
        f"{result['val_loss']:.4f}",
        f"{result['params_active']:,}",
        f"{result['params_total']:,}",
        "" if smallest is None else f"{smallest:.2f}",
        f"{result['tokens_per_s']:,.0f}",
        f"{result['wall_s']:.0f}",
        f"{measured.peak_bytes / 1e6:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    seeds = parser.parse_args().seeds
    lines = ["| block | seed | val loss (nats/token) | active | total | smallest load | tokens/s | seconds | peak MB |", "|---" * 9 + "|"]
    losses: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            for arm in arms():
                measured = train(RECIPE, (f"seed={seed}", *arm.overrides), Path(folder) / f"{arm.name}-{seed}")
                losses.setdefault(arm.name, []).append(measured.result["val_loss"])
                lines.append(row(arm, seed, measured))
    means = {name: sum(values) / len(values) for name, values in losses.items()}
    gaps = [mlp - sparse for sparse, mlp in zip(losses["sparse"], losses["mlp"], strict=True)]
    print("\n".join(lines))
    print(f"\nmean loss: {', '.join(f'{name} {mean:.4f}' for name, mean in means.items())}")
    print(f"sparse below mlp by: {', '.join(f'{gap:+.4f}' for gap in gaps)} nats/token")


if __name__ == "__main__":
    main()
