"""The layers x experts heatmap: how much of each layer's load every expert takes.

Knows a load report as plain data. Must not compute anything that the report doesn't hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Beyond so many experts the numbers in the cells would overlap.
MOST_EXPERTS_WITH_NUMBERS = 16
CELL_INCHES = 0.55


def draw_heatmap(load_report: dict[str, Any], path: Path) -> None:
    """Draws load times number of experts, so that 1 is the even share, on a scale where 1 is white, 0 blue and 2 or more red."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    layers = load_report["layers"]
    multiples = [[share * layer["num_experts"] for share in layer["load"]] for layer in layers]
    num_experts = len(multiples[0])
    width = max(6.0, 2.5 + CELL_INCHES * min(num_experts, 32))
    figure, axes = plt.subplots(figsize=(width, 1.8 + CELL_INCHES * len(layers)), layout="constrained")
    image = axes.imshow(multiples, cmap="RdBu_r", norm=TwoSlopeNorm(vcenter=1.0, vmin=0.0, vmax=2.0), aspect="auto")
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    axes.set_yticks(range(len(layers)), [str(layer["layer"]) for layer in layers])
    if num_experts <= MOST_EXPERTS_WITH_NUMBERS:
        axes.set_xticks(range(num_experts))
        _write_numbers(axes, multiples)
    title = f"Load per expert over {load_report['tokens']:,} tokens, in multiples of the even share"
    axes.set_title("\n".join([title, *load_report.get("notes", [])]), fontsize=10, wrap=True)
    figure.colorbar(image, ax=axes, label="1 = even share", extend="max")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _write_numbers(axes: Any, multiples: list[list[float]]) -> None:
    for row, values in enumerate(multiples):
        for column, value in enumerate(values):
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if abs(value - 1) > 0.6 else "black")
